"""The local stack's real S3 endpoint, versitygw, on a port and a folder of a test's own."""

import os
import secrets
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.tool_families import FOLDER, load_family
from localcluster.toolchain import Toolchain
from tests.unit.smoke_servers import unused_port


@dataclass(frozen=True, kw_only=True)
class S3Endpoint:
    """Where it listens, the folder with a subfolder a bucket, and the key pair that it accepts."""

    url: str
    folder: Path
    access_key: str
    secret_key: str

    def environment(self, **changes: str) -> dict[str, str]:
        """This process's environment, with what boto3 needs to use the endpoint and nothing else of AWS's."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith("AWS_")}
        return inherited | {
            "AWS_ENDPOINT_URL_S3": self.url,
            "AWS_ACCESS_KEY_ID": self.access_key,
            "AWS_SECRET_ACCESS_KEY": self.secret_key,
            "AWS_EC2_METADATA_DISABLED": "true",
            "AWS_CONFIG_FILE": os.devnull,
            "AWS_SHARED_CREDENTIALS_FILE": os.devnull,
            **changes,
        }

    def start(self, module: str, arguments: Sequence[str | Path], **changes: str) -> subprocess.Popen[str]:
        """`python -m engine_jobs.<module>` with its output in one pipe."""
        command = [sys.executable, "-m", f"engine_jobs.{module}", *map(str, arguments)]
        return subprocess.Popen(
            command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=self.environment(**changes)
        )

    def run(self, module: str, *arguments: str | Path, **changes: str) -> tuple[int, str]:
        """Exit code and output of the program."""
        process = self.start(module, arguments, **changes)
        output, _ = process.communicate(timeout=120)
        return process.returncode, output


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
        for _ in range(200):
            try:
                urllib.request.urlopen(f"{endpoint.url}/health").close()
                break
            except urllib.error.URLError:
                assert process.poll() is None, "versitygw ended at once"
                time.sleep(0.05)
        yield endpoint
    finally:
        process.terminate()
        process.wait(10)
