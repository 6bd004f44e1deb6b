"""The root filesystem of the base image: Debian 12 from the mirror that this machine's own apt uses, through debootstrap."""

import hashlib
import os
import shutil
import subprocess
import tarfile
import tempfile
from collections.abc import Callable
from pathlib import Path

from engine_jobs.errors import UserError

RELEASE = "bookworm"

# What an image never reads: the package manager's downloads and lists, documentation, translations, logs.
UNNEEDED = (
    "usr/share/bash-completion",
    "usr/share/doc",
    "usr/share/info",
    "usr/share/lintian",
    "usr/share/locale",
    "usr/share/man",
    "var/cache/apt",
    "var/lib/apt/lists",
    "var/log",
)


def ensure_rootfs(cache: Path, packages: Path, debootstrap: Path, report: Callable[[str], None]) -> Path:
    """`cache`/<release>-<hash of the package list>.tar, uncompressed; makes it if it is not there.

    `packages` is a file with one package name a line, `debootstrap` the program.
    Raises UserError where apt names no mirror or debootstrap fails.
    """
    names = sorted(set(packages.read_text().split()))
    key = hashlib.sha256("\n".join((RELEASE, *names, *UNNEEDED)).encode()).hexdigest()[:12]
    archive = cache / f"{RELEASE}-{key}.tar"
    if archive.exists():
        return archive
    cache.mkdir(parents=True, exist_ok=True)
    mirror = apt_mirror()
    report(f"base image: Debian {RELEASE} by debootstrap from {mirror}")
    with tempfile.TemporaryDirectory(prefix=".rootfs-", dir=cache) as scratch:
        root = Path(scratch) / "root"
        log = Path(scratch) / "debootstrap.log"
        command = [str(debootstrap), "--variant=minbase", f"--include={','.join(names)}", RELEASE, str(root), mirror]
        with log.open("wb") as output:
            status = subprocess.run(
                command, stdout=output, stderr=subprocess.STDOUT, env={**os.environ, **apt_proxies()}, check=False
            ).returncode
        if status:
            tail = "\n".join(log.read_text(errors="replace").splitlines()[-15:])
            raise UserError(f"debootstrap could not make Debian {RELEASE} from {mirror}:\n{tail}")
        for folder in UNNEEDED:
            shutil.rmtree(root / folder, ignore_errors=True)
            (root / folder).mkdir(parents=True)
        partial = Path(scratch) / "rootfs.tar"
        with tarfile.open(partial, "w", format=tarfile.PAX_FORMAT) as tar:
            tar.add(root, arcname=".", filter=_without_device)
        partial.rename(archive)
    return archive


def apt_mirror() -> str:
    """The first mirror of this machine's apt configuration that has the release's main component."""
    targets = subprocess.run(
        ["apt-get", "indextargets", "--format", "$(REPO_URI) $(RELEASE) $(COMPONENT)", "Created-By: Packages"],
        capture_output=True,
        text=True,
        check=False,
    )
    for line in targets.stdout.splitlines():
        uri, _, rest = line.partition(" ")
        if rest == f"{RELEASE} main":
            return uri
    raise UserError(
        f"apt has no source for Debian {RELEASE} main, and the images are made from it: add one to "
        f"/etc/apt/sources.list ({targets.stderr.strip() or 'apt-get indextargets lists none'})"
    )


def apt_proxies() -> dict[str, str]:
    """apt's proxies as the environment variables that debootstrap's downloads read."""
    proxies = {}
    for scheme in ("http", "https"):
        dump = subprocess.run(
            ["apt-config", "shell", "proxy", f"Acquire::{scheme}::Proxy"], capture_output=True, text=True, check=False
        ).stdout.strip()
        value = dump.partition("=")[2].strip("'")
        if value and value != "DIRECT":
            proxies[f"{scheme}_proxy"] = value
    return proxies


def _without_device(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
    # The container runtime makes its own /dev.
    return None if member.isdev() and not member.isfile() else member
