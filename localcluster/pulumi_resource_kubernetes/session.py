"""What one run of the provider knows: its settings, its cluster, and whom it talks to."""

import threading

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.engine import Engine
from localcluster.pulumi_resource_kubernetes.errors import ProviderError
from localcluster.pulumi_resource_kubernetes.kubeconfig import KubeconfigError, access_of
from localcluster.pulumi_resource_kubernetes.scopes import Scopes
from localcluster.pulumi_resource_kubernetes.settings import Settings


class Session:
    """A configured provider. The cluster is looked for when it is first needed."""

    def __init__(self, settings: Settings, engine: Engine, cancelled: threading.Event) -> None:
        self.settings = settings
        self.engine = engine
        self.cancelled = cancelled
        self.scopes = Scopes()
        self._lock = threading.Lock()
        self._cluster: Cluster | None = None
        self._told_unreachable = False
        self._warned: set[tuple[str, str]] = set()

    def cluster(self) -> Cluster:
        """The cluster, which has answered at least once. Raises ProviderError (UnreachableError) otherwise."""
        with self._lock:
            if self._cluster is None:
                try:
                    self._cluster = Cluster(access_of(self.settings), self.settings.request_timeout_s)
                except KubeconfigError as error:
                    raise ProviderError(f"no Kubernetes cluster is configured: {error}") from None
            cluster = self._cluster
        cluster.reach()
        return cluster

    def cluster_or_none(self) -> Cluster | None:
        """The cluster where it can be reached."""
        try:
            return self.cluster()
        except ProviderError:
            return None

    def reachable(self, urn: str) -> bool:
        """Whether the cluster answers; the first time that it doesn't, a warning says why."""
        try:
            self.cluster()
        except ProviderError as error:
            with self._lock:
                told, self._told_unreachable = self._told_unreachable, True
            if not told:
                self.engine.warning(urn, f"this preview shows the inputs only: {error}")
            return False
        return True

    @property
    def default_namespace(self) -> str:
        """Where objects go that name no namespace."""
        cluster = self.cluster_or_none()
        return cluster.namespace if cluster is not None else self.settings.namespace or "default"

    def warn_of_answer(self, urn: str, warning: str) -> None:
        """Shows a warning that the apiserver sent along, once for each resource."""
        if self.settings.suppress_deprecation_warnings and "deprecated" in warning:
            return
        with self._lock:
            known = (urn, warning) in self._warned
            self._warned.add((urn, warning))
        if not known:
            self.engine.warning(urn, warning)
