"""The Python packages of the images: wheels fetched on the host by its own pip, so that an image's build needs no network.

A lock's hashes are checked twice: here when a wheel is fetched, and by pip inside the build when it is installed.
"""

import re
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError

WORKERS = 4
_PINNED = re.compile(r"^(?P<name>[A-Za-z0-9][A-Za-z0-9._-]*)==(?P<version>[^\s;\\]+)")


@dataclass(frozen=True, kw_only=True)
class Requirement:
    """One entry of a lock: `text` is the whole of it, hashes included."""

    name: str
    version: str
    text: str

    @property
    def wheel_prefix(self) -> str:
        """How the file names of its wheels begin, in lower case."""
        return f"{re.sub(r'[-_.]+', '_', self.name)}-{self.version}-".lower()


def read_lock(lock: Path) -> list[Requirement]:
    """The entries of a requirements file with hashes. Raises UserError for one that is not pinned or has no hash."""
    requirements = []
    lines = (line for line in lock.read_text().splitlines() if line.strip() and not line.lstrip().startswith("#"))
    for entry in re.split(r"\n(?=\S)", "\n".join(lines)):
        pinned = _PINNED.match(entry)
        if pinned is None or "--hash=" not in entry:
            raise UserError(f"{lock}: {entry.splitlines()[0]!r} is not pinned with a hash: lock the requirements again")
        requirements.append(Requirement(name=pinned["name"], version=pinned["version"], text=entry))
    return requirements


def missing_wheels(wheelhouse: Path, locks: Sequence[Path]) -> list[Requirement]:
    """What the locks name and the wheelhouse lacks, each once."""
    present = [path.name.lower() for path in wheelhouse.glob("*.whl")]
    wanted = {requirement.wheel_prefix: requirement for lock in locks for requirement in read_lock(lock)}
    return [wanted[prefix] for prefix in sorted(wanted) if not any(name.startswith(prefix) for name in present)]


def ensure_wheels(wheelhouse: Path, locks: Sequence[Path], report: Callable[[str], None]) -> None:
    """Fetches the missing wheels with this machine's own pip configuration, a few at a time.

    Raises UserError with pip's own words where one can't be had.
    """
    missing = missing_wheels(wheelhouse, locks)
    if not missing:
        return
    wheelhouse.mkdir(parents=True, exist_ok=True)
    report(f"images: fetching {len(missing)} Python packages")
    with (
        tempfile.TemporaryDirectory(prefix=".partial-", dir=wheelhouse) as scratch,
        ThreadPoolExecutor(WORKERS) as pool,
    ):
        shares = [missing[start::WORKERS] for start in range(WORKERS)]
        list(pool.map(lambda share: _download(share, wheelhouse, Path(scratch)), [share for share in shares if share]))


def _download(share: Sequence[Requirement], wheelhouse: Path, scratch: Path) -> None:
    folder = Path(tempfile.mkdtemp(dir=scratch))
    lock = folder / "requirements.txt"
    lock.write_text("".join(f"{requirement.text}\n" for requirement in share))
    command = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--require-hashes"]
    command += ["--only-binary", ":all:", "--dest", str(folder), "--requirement", str(lock)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        names = ", ".join(requirement.name for requirement in share)
        raise UserError(f"pip could not fetch the images' Python packages ({names}):\n{done.stderr.strip()[-1500:]}")
    for wheel in folder.glob("*.whl"):
        wheel.rename(wheelhouse / wheel.name)
