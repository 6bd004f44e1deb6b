"""The local stack's GCS endpoint, fake-gcs-server, on a port and a folder of a test's own."""

import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.tool_families import FOLDER, load_family
from localcluster.toolchain import Toolchain
from tests.unit.smoke_servers import unused_port
from tests.unit.store_endpoint import StoreEndpoint, wait_until_it_answers


@dataclass(frozen=True, kw_only=True)
class GcsEndpoint(StoreEndpoint):
    @property
    def scheme(self) -> str:
        return "gs"

    @property
    def variables(self) -> Mapping[str, str]:
        return {"STORAGE_EMULATOR_HOST": self.url}


@contextmanager
def gcs_endpoint(folder: Path) -> Iterator[GcsEndpoint]:
    """A running endpoint, begun as the local cluster does. Builds fake-gcs-server into the tool cache where it is not there
    yet (three minutes, once)."""
    tool = Toolchain(families=[load_family(FOLDER / "gcs")], packages=()).ensure(print).bin("fake-gcs-server")
    port = unused_port()
    url = f"http://127.0.0.1:{port}"
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "localcluster.gcs_endpoint", folder, tool, "-backend=filesystem"),
            *(f"-filesystem-root={folder}", "-scheme=http", "-host=127.0.0.1", f"-port={port}", "-log-level=warn"),
            *(f"-external-url={url}", f"-public-host=127.0.0.1:{port}"),
        ]
    )
    try:
        wait_until_it_answers(f"{url}/_internal/healthcheck", process)
        yield GcsEndpoint(url=url, folder=folder)
    finally:
        process.terminate()
        process.wait(10)
