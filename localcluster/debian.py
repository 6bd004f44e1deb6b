"""Installs what the local stack needs from Debian, and nothing that is there already.

No recommended packages, no questions, and no daemon is started: the cluster starts its own containerd with its own
configuration, and a second one on the same machine would only be in the way.
"""

import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError

POLICY = Path("/usr/sbin/policy-rc.d")
SEARCH_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_DENY = "#!/bin/sh\n# Written by localcluster/debian.py for one apt-get run; safe to remove.\nexit 101\n"
CNI_FOLDERS = (Path("/usr/lib/cni"), Path("/opt/cni/bin"))


@dataclass(frozen=True, kw_only=True)
class Package:
    """A Debian package and the files that show it is there, from Debian or from anywhere else.

    A plain name in `provides` is looked for on PATH (sbin included), a name after `cni:` in the CNI plugin folders.
    """

    name: str
    provides: tuple[str, ...]

    def missing(self, search_path: str) -> tuple[str, ...]:
        return tuple(name for name in self.provides if locate(name, search_path) is None)


PACKAGES = (
    Package(name="containerd", provides=("containerd", "ctr", "containerd-shim-runc-v2")),
    Package(name="runc", provides=("runc",)),
    Package(
        name="containernetworking-plugins", provides=("cni:bridge", "cni:portmap", "cni:host-local", "cni:loopback")
    ),
    Package(name="nftables", provides=("nft",)),
    Package(name="iptables", provides=("iptables", "ip6tables")),
    Package(name="conntrack", provides=("conntrack",)),
    Package(name="iproute2", provides=("ip", "tc")),
    Package(name="kmod", provides=("modprobe",)),
    Package(name="mount", provides=("mount", "umount")),
    Package(name="util-linux", provides=("nsenter", "unshare")),
    Package(name="procps", provides=("sysctl",)),
    Package(name="buildah", provides=("buildah",)),
    Package(name="debootstrap", provides=("debootstrap",)),
)


def locate(name: str, search_path: str) -> Path | None:
    """Where a name of `Package.provides` is, or None."""
    if name.startswith("cni:"):
        plugin = name.removeprefix("cni:")
        return next((folder / plugin for folder in CNI_FOLDERS if (folder / plugin).exists()), None)
    found = shutil.which(name, path=search_path)
    return Path(found) if found else None


def search_path(environment: Mapping[str, str] = os.environ) -> str:
    """PATH with the sbin folders, which an ordinary user's PATH lacks, at its end."""
    own = environment.get("PATH", "")
    known = own.split(":")
    return ":".join([own, *(folder for folder in SEARCH_PATH.split(":") if folder not in known)]).lstrip(":")


def missing_packages(packages: Sequence[Package] = PACKAGES, path: str | None = None) -> dict[Package, tuple[str, ...]]:
    """The packages to install, each with the names that could not be found."""
    path = search_path() if path is None else path
    return {package: names for package in packages if (names := package.missing(path))}


def ensure_packages(
    report: Callable[[str], None],
    packages: Sequence[Package] = PACKAGES,
    *,
    path: str | None = None,
    policy: Path = POLICY,
) -> list[str]:
    """Installs the missing packages and returns their names. Raises UserError where apt is absent, fails, or needs root."""
    path = search_path() if path is None else path
    missing = missing_packages(packages, path)
    if not missing:
        return []
    names = [package.name for package in missing]
    wanted = f"apt-get install --no-install-recommends {' '.join(names)}"
    apt = shutil.which("apt-get", path=path)
    if apt is None:
        absent = ", ".join(sorted({name for found in missing.values() for name in found}))
        raise UserError(
            f"{absent} not found, and this machine has no apt-get to install them: "
            "install them by its own package manager (on Debian they are in: " + " ".join(names) + ")"
        )
    if os.geteuid() != 0:
        raise UserError(f"Debian packages are missing and only root can install them: run, as root, {wanted}")
    report(f"installing from Debian: {' '.join(names)}")
    with _no_daemons(policy):
        if not _knows(apt, names):
            _apt(apt, ["update"], f"apt-get update failed before {wanted}")
        try:
            _install(apt, names, wanted)
        except UserError:
            # The lists on this machine may name versions that the mirror has since replaced.
            _apt(apt, ["update"], f"apt-get update failed before {wanted}")
            _install(apt, names, wanted)
    still = missing_packages(list(missing), path)
    if still:
        lacking = "; ".join(f"{package.name} brought no {', '.join(found)}" for package, found in still.items())
        raise UserError(f"{wanted} succeeded, but {lacking}: look at `dpkg -L PACKAGE` and put them on PATH")
    return names


def _knows(apt: str, names: Sequence[str]) -> bool:
    """Whether the package lists on this machine have every one of the names."""
    cache = str(Path(apt).with_name("apt-cache"))
    shown = subprocess.run([cache, "--no-all-versions", "show", *names], capture_output=True, text=True)
    return shown.returncode == 0 and shown.stdout.count("\nFilename: ") >= len(names)


def _install(apt: str, names: Sequence[str], wanted: str) -> None:
    _apt(apt, ["install", "--no-install-recommends", *names], f"{wanted} failed")


def _apt(apt: str, arguments: Sequence[str], failure: str) -> None:
    """Runs apt-get without a terminal. `DPkg::Lock::Timeout`: another apt at work is waited for, in seconds."""
    command = [apt, "-y", "-q", "-o", "DPkg::Lock::Timeout=600", *arguments]
    environment = {**os.environ, "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
    done = subprocess.run(
        command, env=environment, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode != 0:
        last = "\n  ".join(done.stdout.strip().splitlines()[-8:])
        raise UserError(f"{failure} (exit code {done.returncode}). Its last lines:\n  {last}")


@contextmanager
def _no_daemons(policy: Path) -> Iterator[None]:
    """Denies the packages' scripts to start services while the body runs (invoke-rc.d asks policy-rc.d; 101 is no).

    A policy of the machine's own is left as it is; one that a killed run of ours left behind is taken over.
    """
    if policy.is_symlink() or (policy.exists() and policy.read_text() != _DENY):
        yield
        return
    with tempfile.NamedTemporaryFile("w", dir=policy.parent, prefix="policy-rc.d.", delete=False) as draft:
        draft.write(_DENY)
    Path(draft.name).chmod(0o755)
    Path(draft.name).replace(policy)
    try:
        yield
    finally:
        policy.unlink(missing_ok=True)
