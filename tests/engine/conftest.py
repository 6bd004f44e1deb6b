"""One private control plane for all tests of this folder, and a project with the stand-ins for each."""

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest

from localcluster import stand_ins
from localcluster.paths import Paths
from localcluster.pulumi_resource_kubernetes import operations
from localcluster.pulumi_resource_kubernetes.operations import Outcome, Target
from localcluster.pulumi_resource_kubernetes.session import Session
from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.tool_families import load_families
from localcluster.toolchain import Toolchain, Tools
from tests.engine.control_plane import ControlPlane, control_plane
from tests.engine.direct import Recorder, urn_of
from tests.engine.project import Project


@pytest.fixture(scope="session")
def tools() -> Tools:
    """What these tests run: built ones, or official ones from PATH."""
    families = [family for family in load_families() if family.name in ("kubernetes", "etcd", "pulumi")]
    return Toolchain(families=families, packages=()).ensure(print)


@pytest.fixture(scope="session")
def plane(tools: Tools, tmp_path_factory: pytest.TempPathFactory) -> Iterator[ControlPlane]:
    with control_plane(tools, tmp_path_factory.mktemp("control-plane")) as running:
        yield running


@pytest.fixture(scope="session")
def launchers(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, ...]:
    """The stand-ins' folders for PATH, whether this machine has the official ones or not."""
    root = tmp_path_factory.mktemp("stand-ins")
    paths = Paths(cache=root / "cache", state=root / "state")
    return tuple(stand_ins.ensure(paths, entry) for entry in (stand_ins.LANGUAGE_HOST, stand_ins.KUBERNETES_PROVIDER))


@pytest.fixture
def new_project(tools: Tools, launchers: tuple[Path, ...], tmp_path: Path) -> Callable[..., Project]:
    def make(**environment: str) -> Project:
        number = sum(1 for _ in tmp_path.iterdir())
        folder = tmp_path / f"project-{number}"
        return Project(folder=folder, pulumi=tools.bin("pulumi"), stand_ins=launchers, environment=environment)

    return make


@pytest.fixture
def project(new_project: Callable[..., Project], plane: ControlPlane) -> Project:
    """A project whose ambient kubeconfig is the private control plane's."""
    return new_project(KUBECONFIG=str(plane.kubeconfig))


@pytest.fixture
def engine() -> Recorder:
    return Recorder()


@pytest.fixture
def session(plane: ControlPlane, engine: Recorder) -> Session:
    return Session(Settings(kubeconfig=str(plane.kubeconfig)), engine, threading.Event())


@pytest.fixture
def creating(session: Session) -> Callable[..., Future[Outcome]]:
    """Starts a create, which goes on beside the test."""
    pool = ThreadPoolExecutor(4)

    def create(obj: dict[str, Any], timeout_s: float = 60.0) -> Future[Outcome]:
        obj["metadata"] = {"namespace": "default", **obj["metadata"]}
        return pool.submit(operations.create, session, Target(urn=urn_of(obj), timeout_s=timeout_s), obj)

    return create
