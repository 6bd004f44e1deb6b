"""Takes the local cluster down, so that nothing of it is left but the caches (and the state, if that is wished)."""

import contextlib
import os
import shutil
import signal
import subprocess
import time
from pathlib import Path

from engine_jobs.errors import UserError
from localcluster import cgroups, network, preflight
from localcluster.cluster import Cluster
from localcluster.containerd import POD_NETWORK, ContainerdClient
from localcluster.lock import exclusive
from localcluster.paths import LOCK, Paths
from localcluster.progress import Progress

# Where the plugin library, the kubelet and runc keep things outside of any folder they are told of.
CNI_RESULTS = Path("/var/lib/cni/results")
CONTAINER_LOG_LINKS = Path("/var/log/containers")


def down(paths: Paths, progress: Progress, *, keep_state: bool) -> None:
    """Raises UserError where another state's cluster is up, or where something could not be removed."""
    preflight.check_root()
    with exclusive(LOCK, "python -m localcluster down", progress.say):
        network.check_owner(paths)
        with progress.phase("down"):
            tear_down(Cluster(paths), keep_state=keep_state)
        left = remainder(paths)
        if left:
            raise UserError("\n  ".join(["these are left, and could not be removed:", *left]))


def tear_down(cluster: Cluster, *, keep_state: bool) -> None:
    """Ends every process and pod, then removes mounts, cgroups, interfaces and tables; the state too, if it is not kept."""
    cluster.table.stop_all(["kubelet"])
    stop_node(cluster)
    # The apiserver after its clients, whose requests it waits for, and etcd after the apiserver, which says goodbye to it.
    for last in ({"kube-apiserver", "etcd"}, {"etcd"}, set[str]()):
        cluster.table.stop_all([name for name in cluster.table.names() if name not in last])
    for folder in (cluster.paths.cluster, cluster.paths.cache):  # a broken-off image build leaves mounts in the cache
        unmount_below(folder)
    network.remove(cluster.paths)
    remove_traces(cluster.paths)
    if not keep_state:
        remove_state(cluster.paths)


def stop_node(cluster: Cluster) -> None:
    """Ends every container of ours, through containerd where it runs and by its shims and cgroups where it does not."""
    if cluster.table.running("containerd") is not None:
        with contextlib.suppress(UserError, subprocess.TimeoutExpired):
            ContainerdClient(cluster.paths, _on_path).remove_containers()
        cluster.table.stop("containerd")
    for pid in shims(cluster.paths):
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    cgroups.remove()


def shims(paths: Paths) -> list[int]:
    """The pids of the container shims that belong to this state's containerd, known by its socket in their arguments."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            arguments = (process / "cmdline").read_bytes().decode(errors="replace").split("\0")
            if "containerd-shim" in arguments[0] and str(paths.containerd_socket) in arguments:
                found.append(int(process.name))
    return found


def mounts_below(folder: Path, mountinfo: str | None = None) -> list[Path]:
    """The mount points below the folder, the last mounted first. `mountinfo`: the text of /proc/self/mountinfo."""
    text = Path("/proc/self/mountinfo").read_text() if mountinfo is None else mountinfo
    points = [Path(line.split()[4].encode().decode("unicode_escape")) for line in text.splitlines()]
    return [point for point in reversed(points) if point.is_relative_to(folder)]


def unmount_below(folder: Path) -> None:
    """Unmounts all below it; a mount still in use is detached, and goes with its last user."""
    for point in mounts_below(folder):
        if subprocess.run(["umount", point], capture_output=True, check=False).returncode != 0:
            subprocess.run(["umount", "--lazy", point], capture_output=True, check=False)


def remove_traces(paths: Paths) -> None:
    """Removes what others wrote for our pods outside of the state: CNI results, and links to the pods' logs."""
    for result in CNI_RESULTS.glob(f"{POD_NETWORK}-*"):
        result.unlink(missing_ok=True)
    if CONTAINER_LOG_LINKS.is_dir():
        for link in CONTAINER_LOG_LINKS.iterdir():
            if link.is_symlink() and link.readlink().is_relative_to(paths.pod_logs):
                link.unlink()
    shutil.rmtree(paths.run, ignore_errors=True)


def remove_state(paths: Paths) -> None:
    """Removes the folders that are known to be ours, then their parent if that leaves it empty."""
    for folder in (paths.cluster, paths.node_volumes, paths.pulumi):
        if mounts_below(folder):
            raise UserError(f"{folder} still has mounts below it and is left as it is: unmount them and try again")
        shutil.rmtree(folder, ignore_errors=True)
    with contextlib.suppress(OSError):
        paths.state.rmdir()


def remainder(paths: Paths, *, patience_s: float = 5.0) -> list[str]:
    """What is left of the cluster outside of its folders, in words; what is just ending gets a moment."""
    deadline = time.monotonic() + patience_s
    while True:
        left = [f"process {pid} (a container's shim)" for pid in shims(paths)]
        left += [f"mount {point}" for folder in (paths.cluster, paths.cache) for point in mounts_below(folder)]
        left += cgroups.remainder()
        left += network.remainder()
        if not left or time.monotonic() > deadline:
            return left
        time.sleep(0.2)


def _on_path(name: str) -> Path:
    found = shutil.which(name)
    if found is None:
        raise UserError(f"{name} is not on PATH")
    return Path(found)
