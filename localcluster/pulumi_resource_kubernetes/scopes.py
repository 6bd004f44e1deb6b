"""Whether a kind lives in a namespace: the cluster knows, else the CRDs of the same program, else Kubernetes' own list."""

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.errors import NoSuchKindError
from localcluster.pulumi_resource_kubernetes.objects import (
    api_version_of,
    dig,
    group_of,
    is_crd,
    kind_of,
    metadata_of,
    namespace_of,
)
from localcluster.pulumi_resource_kubernetes.values import Object, Unknown

# Built-in kinds without a namespace, as of Kubernetes 1.34 (`kubectl api-resources --namespaced=false`).
_CLUSTER_SCOPED = {
    "": "ComponentStatus Namespace Node PersistentVolume",
    "admissionregistration.k8s.io": "MutatingAdmissionPolicy MutatingAdmissionPolicyBinding MutatingWebhookConfiguration "
    "ValidatingAdmissionPolicy ValidatingAdmissionPolicyBinding ValidatingWebhookConfiguration",
    "apiextensions.k8s.io": "CustomResourceDefinition",
    "apiregistration.k8s.io": "APIService",
    "certificates.k8s.io": "CertificateSigningRequest ClusterTrustBundle",
    "flowcontrol.apiserver.k8s.io": "FlowSchema PriorityLevelConfiguration",
    "networking.k8s.io": "IPAddress IngressClass ServiceCIDR",
    "node.k8s.io": "RuntimeClass",
    "rbac.authorization.k8s.io": "ClusterRole ClusterRoleBinding",
    "resource.k8s.io": "DeviceClass ResourceSlice",
    "scheduling.k8s.io": "PriorityClass",
    "storage.k8s.io": "CSIDriver CSINode StorageClass VolumeAttachment VolumeAttributesClass",
}


class Scopes:
    """Answers for one run, with or without a cluster."""

    def __init__(self) -> None:
        self._defined: dict[tuple[str, str], bool] = {}

    def learn(self, obj: Object) -> None:
        """Notes what a CRD of the program defines: its objects may come before it is in the cluster."""
        group, kind = dig(obj, "spec", "group"), dig(obj, "spec", "names", "kind")
        if is_crd(obj) and isinstance(group, str) and isinstance(kind, str):
            self._defined[group, kind] = dig(obj, "spec", "scope") != "Cluster"

    def namespaced(self, obj: Object, cluster: Cluster | None) -> bool:
        """What nobody knows yet is taken for namespaced, as most custom kinds are."""
        if cluster is not None:
            try:
                return cluster.resource(api_version_of(obj), kind_of(obj)).namespaced
            except NoSuchKindError:
                pass
        key = group_of(api_version_of(obj)), kind_of(obj)
        if key in self._defined:
            return self._defined[key]
        return key[1] not in _CLUSTER_SCOPED.get(key[0], "").split()

    def place(self, obj: Object, cluster: Cluster | None, default_namespace: str) -> None:
        """Gives a namespaced object that names no namespace the default one, in place."""
        if namespace_of(obj) or isinstance(dig(obj, "metadata", "namespace"), Unknown):
            return
        if self.namespaced(obj, cluster):
            metadata_of(obj)["namespace"] = default_namespace
