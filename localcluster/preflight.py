"""What must hold before `up` starts anything; each failure is one message that says what to do.

Reads /proc only, so it is fast enough for every `up`, and needs no tool to be installed.
"""

import os
import shutil
import subprocess
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address, ip_address
from pathlib import Path

from engine_jobs.errors import UserError
from localcluster.paths import Paths

# Measured: the control plane, KServe and the gateway take 1.3 GB, the shipped model's pods and Jobs about 1.5 GB.
NEEDED_MEMORY_BYTES = 4 << 30
# Tools 1.5 GB, root file systems and images 4 GB, containerd's unpacked copies 4 GB.
NEEDED_DISK_BYTES = 10 << 30
LONGEST_STATE_PATH = 70  # sockets live below it, and a socket's path has 107 characters at most

_CAPABILITIES = {12: "net_admin", 21: "sys_admin"}


@dataclass(frozen=True, kw_only=True)
class Listen:
    """An address and a TCP port that a component is about to listen on."""

    component: str
    address: str
    port: int


@dataclass(frozen=True, kw_only=True)
class Listener:
    """A TCP socket that listens already."""

    address: IPv4Address | IPv6Address
    port: int
    inode: int


def check_root(effective_uid: int | None = None) -> None:
    """Raises UserError unless root runs this."""
    if (os.geteuid() if effective_uid is None else effective_uid) != 0:
        raise UserError(
            "the local cluster needs root (network interfaces, mounts, cgroups), and this is not root: "
            "run the same command as root, for example with sudo -E"
        )


def check_capabilities(status: str | None = None) -> None:
    """Raises UserError where root lacks what a node needs, as in a plain container. `status`: /proc/self/status."""
    text = Path("/proc/self/status").read_text() if status is None else status
    effective = next(int(line.split()[1], 16) for line in text.splitlines() if line.startswith("CapEff:"))
    missing = [name for bit, name in _CAPABILITIES.items() if not effective >> bit & 1]
    if missing:
        raise UserError(
            f"root lacks the capabilities {', '.join(missing)} here, as in an unprivileged container: "
            "run this on a machine or a virtual machine, or in a privileged container"
        )


def check_state_path(paths: Paths) -> None:
    """Raises UserError where the state's path is too long for the sockets below it."""
    if len(str(paths.state)) > LONGEST_STATE_PATH:
        raise UserError(
            f"the state directory's path {paths.state} is longer than {LONGEST_STATE_PATH} characters, "
            "too long for the sockets in it: set LLM_SERVING_STATE to a shorter one"
        )


def check_memory(meminfo: str | None = None) -> None:
    """Raises UserError where less memory is available than the cluster and the shipped model take."""
    text = Path("/proc/meminfo").read_text() if meminfo is None else meminfo
    available = next(int(line.split()[1]) << 10 for line in text.splitlines() if line.startswith("MemAvailable:"))
    if available < NEEDED_MEMORY_BYTES:
        raise UserError(
            f"{available / 2**30:.1f} GiB of memory is available and the local cluster with its model needs "
            f"{NEEDED_MEMORY_BYTES >> 30} GiB: end other programs, or give the machine more memory"
        )


def check_disk(folders: Iterable[Path]) -> None:
    """Raises UserError where one of the folders (or its nearest parent that exists) is on a disk that is too full."""
    for folder in folders:
        existing = next(parent for parent in (folder, *folder.parents) if parent.exists())
        free = shutil.disk_usage(existing).free
        if free < NEEDED_DISK_BYTES:
            raise UserError(
                f"{free / 2**30:.1f} GiB is free on the disk of {folder} and {NEEDED_DISK_BYTES >> 30} GiB is needed: "
                "make room, or set LLM_SERVING_CACHE and LLM_SERVING_STATE to a larger disk"
            )


def check_kernel() -> None:
    """Loads the modules that a node needs where they are modules; raises UserError where the kernel lacks one."""
    needed = {
        "overlay": lambda: "\toverlay\n" in Path("/proc/filesystems").read_text(),
        "br_netfilter": Path("/proc/sys/net/bridge/bridge-nf-call-iptables").exists,
        "nf_conntrack": Path("/proc/sys/net/netfilter/nf_conntrack_max").exists,
    }
    modprobe = shutil.which("modprobe", path="/usr/sbin:/sbin:/usr/bin:/bin")
    for module, present in needed.items():
        if not present() and modprobe is not None:
            subprocess.run([modprobe, module], check=False, capture_output=True)
        if not present():
            raise UserError(f"the kernel has no {module}: load or build that module (modprobe {module}) and try again")


def parse_listeners(table: str) -> list[Listener]:
    """The listening sockets of /proc/net/tcp or tcp6, whose addresses are hex words in the host's byte order."""
    listeners = []
    for line in table.splitlines()[1:]:
        fields = line.split()
        if fields[3] != "0A":
            continue
        host, port = fields[1].split(":")
        words = [bytes.fromhex(host[i : i + 8])[::-1] for i in range(0, len(host), 8)]
        address = ip_address(b"".join(words))
        if isinstance(address, IPv6Address) and address.ipv4_mapped is not None:
            address = address.ipv4_mapped
        listeners.append(Listener(address=address, port=int(port, 16), inode=int(fields[9])))
    return listeners


def listeners() -> list[Listener]:
    """Every TCP socket that listens in this network namespace."""
    tables = [Path("/proc/net/tcp"), Path("/proc/net/tcp6")]
    return [listener for table in tables if table.exists() for listener in parse_listeners(table.read_text())]


def conflicts(wanted: Sequence[Listen], existing: Sequence[Listener]) -> list[tuple[Listen, Listener]]:
    """The pairs that can't both be: the same port on the same address, or on every address."""
    return [
        (listen, listener)
        for listen in wanted
        for listener in existing
        if listener.port == listen.port and (listener.address.is_unspecified or str(listener.address) == listen.address)
    ]


def check_ports(wanted: Sequence[Listen]) -> None:
    """Raises UserError that names each taken port, what needs it, and the process that holds it."""
    taken = conflicts(wanted, listeners())
    if not taken:
        return
    owners = _owners({listener.inode for _, listener in taken})
    lines = [
        f"port {listen.port} on {listen.address}, which {listen.component} needs, is taken by "
        f"{owners.get(listener.inode, 'a process of another container')}"
        for listen, listener in taken
    ]
    raise UserError("\n  ".join(["ports are taken: end these processes, then try again", *lines]))


def _owners(inodes: set[int]) -> dict[int, str]:
    """Maps a socket's inode to `NAME (pid N)` of a process that holds it."""
    found: dict[int, str] = {}
    for process in Path("/proc").glob("[0-9]*"):
        try:
            for descriptor in (process / "fd").iterdir():
                target = str(descriptor.readlink())
                if target.startswith("socket:[") and (inode := int(target[8:-1])) in inodes:
                    found[inode] = f"{(process / 'comm').read_text().strip()} (pid {process.name})"
        except OSError:
            continue
    return found
