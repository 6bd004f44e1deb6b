"""A real endpoint of an artifact store for a test's own use: what it serves on, and how the programs are run against it."""

import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

# What boto3 and Google's client would look at besides what a test sets.
CLOUDS = ("AWS_", "GOOGLE_", "STORAGE_EMULATOR_HOST", "CLOUDSDK_", "GCE_METADATA_", "NO_GCE_CHECK")


@dataclass(frozen=True, kw_only=True)
class StoreEndpoint(ABC):
    """Where it listens, and the folder with a subfolder for each bucket."""

    url: str
    folder: Path

    @property
    @abstractmethod
    def scheme(self) -> str:
        """`s3` or `gs`."""

    @property
    @abstractmethod
    def variables(self) -> Mapping[str, str]:
        """What the cloud's client needs to use the endpoint."""

    def environment(self, **changes: str) -> dict[str, str]:
        """This process's environment, with these variables and nothing else that a cloud's client looks at."""
        inherited = {name: value for name, value in os.environ.items() if not name.startswith(CLOUDS)}
        return {**inherited, **self.variables, **changes}

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


def wait_until_it_answers(url: str, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(200):
        try:
            urllib.request.urlopen(url).close()
            return
        except urllib.error.URLError:
            assert process.poll() is None, f"{process.args!r} ended at once"
            time.sleep(0.05)
    raise AssertionError(f"{url} does not answer")
