"""The one home of what the local stack puts where: directories, addresses, ports and names.

Two roots. CACHE holds what can be made again and is kept by `down` (tools, wheels, images, the S3 and GCS endpoints' objects);
STATE belongs to one cluster and its stacks and is removed by `down` unless it is told to keep it.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

BRIDGE = "llms0"
POD_BRIDGE = "llms-cni0"
HOST_ADDRESS = "10.254.0.1"
HOST_CIDR = "10.254.0.0/24"
POD_CIDR = "10.244.0.0/16"
SERVICE_CIDR = "10.96.0.0/16"
APISERVER_SERVICE_ADDRESS = "10.96.0.1"
DNS_SERVICE_ADDRESS = "10.96.0.10"
CLUSTER_DOMAIN = "cluster.local"
INGRESS_DOMAIN = "llm.localhost"
NODE_NAME = "llm-serving-local"
CONTEXT_NAME = "llm-serving-local"

APISERVER_PORT = 6443
S3_PORT = 9000
GCS_PORT = 9001
HUB_PORT = 8090
GATEWAY_PORT = 8888

S3_REGION = "us-east-1"
PULUMI_PASSPHRASE = "local"  # protects nothing but a laptop's own stack; it is no secret

# Bridge names and ports belong to the machine: there is one local cluster on it, and one lock for `up` and `down`.
LOCK = Path("/run/llm-serving.lock")

# The node's volumes are where the stack file says, whoever's state it is.
VOLUMES = Path("/var/lib/llm-serving/volumes")

REPOSITORY = Path(__file__).resolve().parent.parent


@dataclass(frozen=True, kw_only=True)
class Paths:
    """Every path of the local stack, from its two roots. `volumes`: the node's volumes, where they are not the state's own."""

    cache: Path
    state: Path
    volumes: Path | None = None

    @property
    def tools(self) -> Path:
        """Holds `<family>-<hash12>/bin/…`, one folder for each built tool family."""
        return self.cache / "tools"

    @property
    def wheels(self) -> Path:
        return self.cache / "wheels"

    @property
    def images(self) -> Path:
        return self.cache / "images"

    @property
    def rootfs(self) -> Path:
        return self.cache / "rootfs"

    @property
    def debs(self) -> Path:
        return self.cache / "debs"

    @property
    def store(self) -> Path:
        """The S3 endpoint's data: finished artifacts outlive the cluster."""
        return self.cache / "store"

    @property
    def gcs_store(self) -> Path:
        """The GCS endpoint's data, likewise."""
        return self.cache / "gcs-store"

    @property
    def cluster(self) -> Path:
        return self.state / "cluster"

    @property
    def run(self) -> Path:
        """Pid files."""
        return self.cluster / "run"

    @property
    def logs(self) -> Path:
        return self.cluster / "logs"

    @property
    def pki(self) -> Path:
        return self.cluster / "pki"

    @property
    def config(self) -> Path:
        """Configuration files of the components, written by `up`."""
        return self.cluster / "config"

    @property
    def kubeconfig(self) -> Path:
        """The admin's kubeconfig, mode 0600."""
        return self.cluster / "kubeconfig"

    @property
    def s3_credentials(self) -> Path:
        """An AWS shared-credentials file, mode 0600, with the key pair of this state under [default]."""
        return self.cluster / "s3-credentials"

    @property
    def hub_token(self) -> Path:
        """The token that the Hub endpoint accepts for gated models, mode 0600."""
        return self.cluster / "hub-token"

    @property
    def containerd_root(self) -> Path:
        """Imported and unpacked images, which outlive the cluster; its containers' entries go with them."""
        return self.cache / "containerd"

    @property
    def containerd_state(self) -> Path:
        return self.cluster / "containerd" / "state"

    @property
    def containerd_socket(self) -> Path:
        return self.cluster / "containerd" / "containerd.sock"

    @property
    def etcd(self) -> Path:
        return self.cluster / "etcd"

    @property
    def kubelet(self) -> Path:
        return self.cluster / "kubelet"

    @property
    def pod_logs(self) -> Path:
        return self.cluster / "pod-logs"

    @property
    def cni(self) -> Path:
        return self.cluster / "cni"

    @property
    def timings(self) -> Path:
        """How long each phase of the last `up` took, as JSON."""
        return self.cluster / "timings.json"

    @property
    def node_volumes(self) -> Path:
        """Holds what the node's hostPath volumes show to pods."""
        return self.volumes or self.state / "volumes"

    @property
    def work_volume(self) -> Path:
        """Mode 1777; the host path of the work PersistentVolume."""
        return self.node_volumes / "work"

    @property
    def models_volume(self) -> Path:
        """Mode 1777; the host path of the PersistentVolumes that stand for the models' disks."""
        return self.node_volumes / "models"

    @property
    def pulumi(self) -> Path:
        """Pulumi's file backend."""
        return self.state / "pulumi"


def default_paths(environment: Mapping[str, str] = os.environ) -> Paths:
    """The two roots: LLM_SERVING_CACHE and LLM_SERVING_STATE, else XDG's directories, else below the home directory."""
    home = Path(environment.get("HOME") or Path.home())

    def root(own: str, xdg: str, fallback: str) -> Path:
        if environment.get(own):
            return Path(environment[own]).expanduser().resolve()
        base = Path(environment[xdg]) if environment.get(xdg) else home / fallback
        return (base / "llm-serving").expanduser().resolve()

    return Paths(
        cache=root("LLM_SERVING_CACHE", "XDG_CACHE_HOME", ".cache"),
        state=root("LLM_SERVING_STATE", "XDG_STATE_HOME", ".local/state"),
        volumes=VOLUMES,
    )
