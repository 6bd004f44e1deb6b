"""What the local cluster consists of, in the order in which it starts."""

from localcluster.apiserver_client import ApiserverClient
from localcluster.component import Component, ToolPath
from localcluster.containerd import containerd
from localcluster.control_plane import apiserver, controller_manager, etcd, scheduler
from localcluster.dns import coredns
from localcluster.gateway import traefik
from localcluster.gcs_endpoint import gcs
from localcluster.hub_endpoint import ensure_hub_token, hub
from localcluster.kubeconfig import ensure_admin_kubeconfig
from localcluster.node import kube_proxy, kubelet
from localcluster.paths import Paths
from localcluster.pki import Pki
from localcluster.process import ProcessTable
from localcluster.s3_endpoint import ensure_s3_credentials, s3

# Each wave starts at once, and the next when all of it is healthy; the objects are applied before the last.
Waves = tuple[tuple[Component, ...], ...]


class Cluster:
    """One state of the local cluster: its certificates, its processes, its apiserver."""

    def __init__(self, paths: Paths) -> None:
        self.paths = paths
        self.pki = Pki(paths.pki)
        self.table = ProcessTable(paths.run, paths.logs)

    @property
    def client(self) -> ApiserverClient:
        return ApiserverClient(self.pki)

    @property
    def is_prepared(self) -> bool:
        """Whether `prepare` has been through with this state."""
        return self.paths.kubeconfig.exists()

    def prepare(self) -> None:
        """Makes what the components' files are made from: certificates, credentials, the token, the admin's kubeconfig."""
        for folder in (self.paths.state, self.paths.cluster):
            folder.mkdir(parents=True, exist_ok=True, mode=0o700)
        for volume in (self.paths.work_volume, self.paths.models_volume):
            volume.mkdir(parents=True, exist_ok=True)
            volume.chmod(0o1777)
        self.pki.ensure()
        ensure_s3_credentials(self.paths)
        ensure_hub_token(self.paths)
        ensure_admin_kubeconfig(self.paths.kubeconfig, self.pki)

    def waves(self, tool: ToolPath, pause_image: str) -> Waves:
        """The components of a prepared state."""
        paths, pki = self.paths, self.pki
        return (
            (
                etcd(paths, pki, tool),
                containerd(paths, tool, pause_image),
                s3(paths, tool),
                gcs(paths, tool),
                hub(paths),
            ),
            (apiserver(pki, tool),),
            (
                controller_manager(paths, pki, tool),
                scheduler(paths, pki, tool),
                kubelet(paths, pki, tool),
                kube_proxy(paths, pki, tool),
            ),
            (
                coredns(paths, pki, tool),
                traefik(paths, pki, tool),
            ),
        )
