"""End-to-end tests need the local cluster, and the `local` stack on it: `make up`. They fail without it; they are never skipped."""

import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import kubernetes
import pytest

from localcluster.local_stack import STACK, cluster_is_running, stack_environment
from stacks.settings import read_stack_file, stack_file
from tests.e2e.stack_runs import TestStack, local_config


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """What ends the cluster comes after all else."""
    items.sort(key=lambda item: item.get_closest_marker("destructive") is not None)


@pytest.fixture(scope="session")
def environment() -> Mapping[str, str]:
    if not cluster_is_running():
        pytest.fail("the local cluster is not up: `make up` first, or run all by `make test`", pytrace=False)
    return stack_environment()


@pytest.fixture(scope="session")
def cluster(environment: Mapping[str, str]) -> kubernetes.client.ApiClient:
    return kubernetes.config.new_client_from_config(config_file=environment["KUBECONFIG"])


@pytest.fixture(scope="session")
def local(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> TestStack:
    """The `local` stack as `make up` left it. Tests look at it and leave it alone."""
    file = tmp_path_factory.mktemp("local") / f"Pulumi.{STACK}.yaml"
    return TestStack(name=STACK, file=file, environment=environment, config=read_stack_file(stack_file(STACK)))


@pytest.fixture(scope="module")
def stack(environment: Mapping[str, str], tmp_path_factory: pytest.TempPathFactory) -> Iterator[TestStack]:
    """An empty stack with its own namespace and its own folder in the store, destroyed at the end."""
    name = f"e2e-{time.time_ns() % 10**9}"
    file: Path = tmp_path_factory.mktemp(name) / f"Pulumi.{name}.yaml"
    made = TestStack(name=name, file=file, environment=environment, config=local_config(name, f"tests/{name}"))
    made.create()
    yield made
    made.remove()


@pytest.fixture(scope="session")
def eventually() -> Callable[[Callable[[], bool], str, float], None]:
    def wait(condition: Callable[[], bool], what: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds:.0f} s: {what}"
            time.sleep(0.5)

    return wait
