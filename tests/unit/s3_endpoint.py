"""The local stack's real S3 endpoint, versitygw, on a port and a folder of a test's own."""

import os
import secrets
import subprocess
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.tool_families import FOLDER, load_family
from localcluster.toolchain import Toolchain
from tests.unit.smoke_servers import unused_port
from tests.unit.store_endpoint import StoreEndpoint, wait_until_it_answers


@dataclass(frozen=True, kw_only=True)
class S3Endpoint(StoreEndpoint):
    """With the key pair that it accepts."""

    access_key: str
    secret_key: str

    @property
    def scheme(self) -> str:
        return "s3"

    @property
    def variables(self) -> Mapping[str, str]:
        return {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
        }


@contextmanager
def s3_endpoint(folder: Path) -> Iterator[S3Endpoint]:
    """A running endpoint. Builds versitygw into the tool cache where it is not there yet (a minute, once)."""
    versitygw = Toolchain(families=[load_family(FOLDER / "s3")], packages=()).ensure(print).bin("versitygw")
    port = unused_port()
    endpoint = S3Endpoint(
        url=f"http://127.0.0.1:{port}", folder=folder, access_key="TESTKEY", secret_key=secrets.token_hex(16)
    )
    folder.mkdir(parents=True, exist_ok=True)
    process = subprocess.Popen(
        [versitygw, f"--port=127.0.0.1:{port}", "--health=/health", "--quiet", "posix", folder],
        env={"ROOT_ACCESS_KEY_ID": endpoint.access_key, "ROOT_SECRET_ACCESS_KEY": endpoint.secret_key},
    )
    try:
        wait_until_it_answers(f"{endpoint.url}/health", process)
        yield endpoint
    finally:
        process.terminate()
        process.wait(10)
