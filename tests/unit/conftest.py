"""What several test modules start once: the S3 endpoint."""

import secrets
from collections.abc import Iterator

import pytest

from tests.unit.s3_endpoint import S3Endpoint, s3_endpoint


@pytest.fixture(scope="session")
def s3_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[S3Endpoint]:
    """A real S3 endpoint for the whole run."""
    with s3_endpoint(tmp_path_factory.mktemp("s3")) as endpoint:
        yield endpoint


@pytest.fixture
def bucket(s3_server: S3Endpoint) -> str:
    """A bucket of the test's own there."""
    name = f"test-{secrets.token_hex(6)}"
    code, output = s3_server.run("bucket", "--bucket", name)
    assert code == 0, output
    return name
