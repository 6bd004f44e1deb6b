"""The one cgroup below which the kubelet keeps its pods, in every hierarchy: version 1, version 2 and hybrids of both."""

import contextlib
import os
import signal
import time
from pathlib import Path

from engine_jobs.errors import UserError

ROOT = "llm-serving"
# What the kubelet asks for of a version 2 cgroup, as far as the kernel has it.
CONTROLLERS = ("cpu", "cpuset", "hugetlb", "io", "memory", "pids")


def hierarchies(mountinfo: str | None = None) -> list[Path]:
    """Where cgroup hierarchies are mounted. `mountinfo`: the text of /proc/self/mountinfo."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    found = []
    for line in text.splitlines():
        before, _, after = line.partition(" - ")
        if after.split(" ", 1)[0] in ("cgroup", "cgroup2"):
            found.append(Path(before.split()[4]))
    return sorted(set(found))


def ensure() -> None:
    """Makes the cgroup. In a version 1 cpuset it inherits the parent's cores and memory nodes: empty ones take no process."""
    for hierarchy in hierarchies():
        enable_controllers(hierarchy)
        group = hierarchy / ROOT
        group.mkdir(exist_ok=True)
        for name in ("cpuset.cpus", "cpuset.mems"):
            ours, parents = group / name, hierarchy / name
            if ours.exists() and parents.exists() and not ours.read_text().strip():
                ours.write_text(parents.read_text())


def enable_controllers(hierarchy: Path) -> None:
    """Hands a version 2 hierarchy's controllers on to the cgroups below its root. Raises UserError where it may not."""
    listing, enabled = hierarchy / "cgroup.controllers", hierarchy / "cgroup.subtree_control"
    if not listing.exists():
        return  # version 1
    missing = sorted(set(listing.read_text().split()) & set(CONTROLLERS) - set(enabled.read_text().split()))
    if missing:
        try:
            enabled.write_text(" ".join(f"+{controller}" for controller in missing))
        except OSError as error:
            raise UserError(
                f"the cgroup controllers {', '.join(missing)} can't be enabled in {hierarchy} ({error.strerror}): "
                "run this on a machine or a virtual machine, or in a container with a cgroup namespace of its own"
            ) from error


def is_complete() -> bool:
    return all((hierarchy / ROOT).is_dir() for hierarchy in hierarchies())


def remove(*, patience_s: float = 10.0) -> None:
    """Ends every process below it, then removes it and everything below."""
    deadline = time.monotonic() + patience_s
    while (pids := processes()) and time.monotonic() < deadline:
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.1)
    for hierarchy in hierarchies():
        group = hierarchy / ROOT
        if group.is_dir():
            for folder, _, _ in os.walk(group, topdown=False):
                with contextlib.suppress(OSError):  # a busy one shows in remainder()
                    Path(folder).rmdir()


def processes() -> set[int]:
    """The pids of everything that runs in a pod's cgroup."""
    found: set[int] = set()
    for hierarchy in hierarchies():
        for listing in (hierarchy / ROOT).glob("**/cgroup.procs"):
            with contextlib.suppress(OSError):
                found.update(int(pid) for pid in listing.read_text().split())
    return found - {0}


def remainder() -> list[str]:
    """What of ours is still there, in words."""
    return [f"cgroup {hierarchy / ROOT}" for hierarchy in hierarchies() if (hierarchy / ROOT).exists()]
