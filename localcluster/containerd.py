"""A containerd of the cluster's own: its state, socket and CNI configuration are the cluster's, its images the cache's."""

import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

from engine_jobs.errors import UserError
from localcluster.component import Component, ToolPath, accepts_unix
from localcluster.paths import POD_BRIDGE, POD_CIDR, Paths
from localcluster.process import INHERITED

LOOPBACK = "127.0.0.1"
NAMESPACE = "k8s.io"  # the one that the kubelet's runtime interface uses
POD_NETWORK = "llm-serving"
POD_SUBNET = POD_CIDR.replace(".0.0/16", ".0.0/24")
_SYS_RESOURCE = 24  # the capability that lowers an OOM score


def containerd(paths: Paths, tool: ToolPath, pause_image: str) -> Component:
    config, network = paths.config / "containerd.toml", paths.cni / "conf" / "10-llm-serving.conflist"
    return Component(
        name="containerd",
        argv=(str(tool("containerd")), "--config", str(config), "--log-level", "warn"),
        # containerd looks for its shim on PATH.
        environment={"PATH": f"{tool('containerd-shim-runc-v2').parent}:{INHERITED['PATH']}"},
        files={
            config: containerd_configuration(
                paths,
                runc=tool("runc"),
                plugins=tool("cni:bridge").parent,
                pause_image=pause_image,
                can_lower_oom=can_lower_oom_scores(),
            ),
            network: json.dumps(cni_configuration(paths), indent=2),
        },
        is_healthy=lambda: accepts_unix(paths.containerd_socket),
    )


def can_lower_oom_scores() -> bool:
    """False for a root without CAP_SYS_RESOURCE, where every sandbox would die of the attempt."""
    status = Path("/proc/self/status").read_text()
    effective = next(int(line.split()[1], 16) for line in status.splitlines() if line.startswith("CapEff:"))
    return bool(effective >> _SYS_RESOURCE & 1)


def containerd_configuration(paths: Paths, *, runc: Path, plugins: Path, pause_image: str, can_lower_oom: bool) -> str:
    """The TOML of containerd's configuration, version 2 (newer containerds read it too)."""

    def quoted(value: object) -> str:
        return json.dumps(str(value))

    return f"""version = 2
root = {quoted(paths.containerd_root)}
state = {quoted(paths.containerd_state)}
disabled_plugins = [
  "io.containerd.snapshotter.v1.aufs",
  "io.containerd.snapshotter.v1.btrfs",
  "io.containerd.snapshotter.v1.devmapper",
  "io.containerd.snapshotter.v1.zfs",
]

[grpc]
address = {quoted(paths.containerd_socket)}

[plugins."io.containerd.internal.v1.opt"]
path = {quoted(paths.containerd_root / "opt")}

[plugins."io.containerd.grpc.v1.cri"]
sandbox_image = {quoted(pause_image)}
stream_server_address = "{LOOPBACK}"
stream_server_port = "0"
restrict_oom_score_adj = {str(not can_lower_oom).lower()}
netns_mounts_under_state_dir = true

[plugins."io.containerd.grpc.v1.cri".cni]
bin_dir = {quoted(plugins)}
conf_dir = {quoted(paths.cni / "conf")}

[plugins."io.containerd.grpc.v1.cri".containerd]
snapshotter = "overlayfs"
default_runtime_name = "runc"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc]
runtime_type = "io.containerd.runc.v2"

[plugins."io.containerd.grpc.v1.cri".containerd.runtimes.runc.options]
BinaryName = {quoted(runc)}
SystemdCgroup = false
"""


def cni_configuration(paths: Paths) -> dict[str, object]:
    """Pods on one bridge. The host's own nft table masquerades; hostPort is left out, as it would need iptables."""
    return {
        "cniVersion": "0.4.0",
        "name": POD_NETWORK,
        "plugins": [
            {
                "type": "bridge",
                "bridge": POD_BRIDGE,
                "isGateway": True,
                "ipMasq": False,
                "hairpinMode": True,
                "ipam": {
                    "type": "host-local",
                    "dataDir": str(paths.cni / "addresses"),
                    "ranges": [[{"subnet": POD_SUBNET}]],
                    "routes": [{"dst": "0.0.0.0/0"}],
                },
            }
        ],
    }


class ContainerdClient:
    """containerd's own command line, on this cluster's socket and namespace."""

    def __init__(self, paths: Paths, tool: ToolPath) -> None:
        self.argv = (str(tool("ctr")), "--address", str(paths.containerd_socket), "--namespace", NAMESPACE)

    def run(self, *arguments: str, timeout_s: float = 600.0) -> str:
        """Its output. Raises UserError with what it said where it fails."""
        done = subprocess.run([*self.argv, *arguments], capture_output=True, text=True, check=False, timeout=timeout_s)
        if done.returncode != 0:
            raise UserError(f"`ctr {' '.join(arguments)}` failed: {done.stderr.strip() or done.stdout.strip()}")
        return done.stdout

    def images(self) -> set[str]:
        """The references of the images that it holds."""
        return set(self.run("images", "list", "--quiet").split())

    def remove_images(self, references: Iterable[str]) -> None:
        """Forgets these images; a container that runs from one goes on."""
        for reference in references:
            self.run("images", "remove", reference)

    def remove_containers(self) -> None:
        """Kills every container of the cluster and forgets it."""
        for container in self.run("containers", "list", "--quiet").split():
            subprocess.run(
                [*self.argv, "tasks", "delete", "--force", container], capture_output=True, check=False, timeout=30
            )
            subprocess.run(
                [*self.argv, "containers", "delete", container], capture_output=True, check=False, timeout=30
            )
