"""What several test modules start once: the S3 and the GCS endpoint."""

import os
import secrets
from collections.abc import Iterator

import pytest

from tests.unit.gcs_endpoint import GcsEndpoint, gcs_endpoint
from tests.unit.s3_endpoint import S3Endpoint, s3_endpoint
from tests.unit.store_endpoint import CLOUDS, StoreEndpoint


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A real S3 endpoint for the whole run."""
    with s3_endpoint(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture(scope="session")
def gcs_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[GcsEndpoint]:
    """A GCS endpoint for the whole run."""
    with gcs_endpoint(tmp_path_factory.mktemp("gcs")) as endpoint:
        yield endpoint


@pytest.fixture(params=["s3", "gcs"])
def store_server(request: pytest.FixtureRequest) -> StoreEndpoint:
    """Each of them: what holds for one kind of store holds for the other."""
    endpoint: StoreEndpoint = request.getfixturevalue(f"{request.param}_server")
    return endpoint


@pytest.fixture
def bucket(store_server: StoreEndpoint) -> str:
    """A bucket of the test's own there."""
    name = f"test-{secrets.token_hex(6)}"
    code, output = store_server.run("bucket", "--url", f"{store_server.scheme}://{name}")
    assert code == 0, output
    return name


@pytest.fixture
def in_process(store_server: StoreEndpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint's settings for the clients in this process."""
    for name in [name for name in os.environ if name.startswith(CLOUDS)]:
        monkeypatch.delenv(name)
    for name, value in store_server.variables.items():
        monkeypatch.setenv(name, value)
