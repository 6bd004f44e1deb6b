"""The Debian packages of the images: fetched on the host by its own apt, so that an image's build needs no network.

An image that wants some names them in a `packages.txt` beside its Containerfile. apt resolves them against what the base image
has installed, so only what is missing there is fetched.
"""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable, Sequence
from pathlib import Path

from engine_jobs.errors import UserError

STATUS = "./var/lib/dpkg/status"
MAX_LOG_LINES = 15


def ensure_debs(cache: Path, packages: Path, rootfs: Path, report: Callable[[str], None]) -> Path:
    """The folder below `cache` with the .deb files of `packages` (one name a line) and of all that these need and the base's
    `rootfs` (a tar file) lacks; fetches them if they are not there.

    Raises UserError with apt's own words where one can't be had.
    """
    names = sorted(set(packages.read_text().split()))
    key = hashlib.sha256("\n".join((rootfs.name, *names)).encode()).hexdigest()[:12]
    folder = cache / key
    if folder.exists():
        return folder
    report(f"images: fetching {', '.join(names)} from Debian")
    cache.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".partial-", dir=cache) as scratch:
        status = Path(scratch) / "status"
        _extract(rootfs, status)
        archives = Path(scratch) / "archives"
        (archives / "partial").mkdir(parents=True)
        _download(names, status, archives)
        shutil.rmtree(archives / "partial")
        archives.rename(folder)
    return folder


def _extract(rootfs: Path, status: Path) -> None:
    """Writes what the base image has installed, in dpkg's format, to `status`."""
    with tarfile.open(rootfs) as tar:
        member = tar.extractfile(STATUS)
        assert member is not None  # debootstrap made it
        status.write_bytes(member.read())


def _download(names: Sequence[str], status: Path, archives: Path) -> None:
    install = ["-y", "-q", "--download-only", "--no-install-recommends"]
    # Another machine's state: nothing of this one is locked or changed.
    install += ["-o", f"Dir::State::status={status}", "-o", f"Dir::Cache::archives={archives}"]
    install += ["-o", "Debug::NoLocking=1", "-o", "APT::Sandbox::User=root", "install", *names]
    done = _apt(install)
    if done.returncode:
        # The lists on this machine may be absent, or name versions that the mirror has since replaced.
        _apt(["-y", "-q", "-o", "DPkg::Lock::Timeout=600", "update"])
        done = _apt(install)
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-MAX_LOG_LINES:])
        raise UserError(f"apt could not fetch the images' Debian packages ({', '.join(names)}):\n{tail}")


def _apt(arguments: Sequence[str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        ["apt-get", *arguments],
        env={**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
