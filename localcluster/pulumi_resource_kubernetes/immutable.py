"""Fields whose change needs a new object. The list is the official provider's (its forceNew table), with the fields
added that Kubernetes 1.34 refuses to change and that table lacks: the update would fail otherwise."""

from localcluster.pulumi_resource_kubernetes.objects import api_version_of, group_of, kind_of
from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.pulumi_resource_kubernetes.values import Object

IDENTITY = (("kind",), ("metadata", "name"), ("metadata", "namespace"))

_VOLUME_SOURCES = [
    "awsElasticBlockStore",
    "azureDisk",
    "azureFile",
    "cephfs",
    "cinder",
    "csi",
    "fc",
    "flexVolume",
    "flocker",
    "gcePersistentDisk",
    "glusterfs",
    "hostPath",
    "iscsi",
    "local",
    "nfs",
    "photonPersistentDisk",
    "portworxVolume",
    "quobyte",
    "rbd",
    "scaleIO",
    "storageos",
    "vsphereVolume",
    "volumeMode",
]
_POD_FIELDS = [
    "affinity",
    "automountServiceAccountToken",
    "dnsConfig",
    "dnsPolicy",
    "enableServiceLinks",
    "hostAliases",
    "hostIPC",
    "hostNetwork",
    "hostPID",
    "hostname",
    "imagePullSecrets",
    "nodeName",
    "nodeSelector",
    "overhead",
    "preemptionPolicy",
    "priority",
    "priorityClassName",
    "readinessGates",
    "restartPolicy",
    "runtimeClassName",
    "schedulerName",
    "securityContext",
    "serviceAccount",
    "serviceAccountName",
    "shareProcessNamespace",
    "subdomain",
    "terminationGracePeriodSeconds",
    "volumes",
]
_CONTAINER_FIELDS = [
    "args",
    "command",
    "env",
    "image",
    "imagePullPolicy",
    "lifecycle",
    "livenessProbe",
    "ports",
    "readinessProbe",
    "resources",
    "securityContext",
    "stdin",
    "stdinOnce",
    "terminationMessagePath",
    "terminationMessagePolicy",
    "tty",
    "volumeDevices",
    "volumeMounts",
    "workingDir",
]


def _spec(*fields: str) -> tuple[tuple[str, ...], ...]:
    return tuple(("spec", *field.split(".")) for field in fields)


_BY_KIND: dict[tuple[str, str], tuple[tuple[str, ...], ...]] = {
    ("", "PersistentVolume"): _spec(*_VOLUME_SOURCES),
    ("", "PersistentVolumeClaim"): _spec(
        "accessModes", "selector", "storageClassName", "volumeName", "volumeMode", "dataSource", "dataSourceRef"
    ),
    ("", "Pod"): (
        *_spec(*_POD_FIELDS),
        *(("spec", part, "*", field) for part in ("containers", "initContainers") for field in _CONTAINER_FIELDS),
    ),
    ("", "ResourceQuota"): _spec("scopes"),
    ("", "Service"): _spec("clusterIP"),
    ("apps", "DaemonSet"): _spec("selector"),
    ("apps", "Deployment"): _spec("selector"),
    ("apps", "StatefulSet"): _spec(
        "podManagementPolicy", "revisionHistoryLimit", "selector", "serviceName", "volumeClaimTemplates"
    ),
    ("batch", "Job"): _spec(
        "completionMode",
        "completions",
        "manualSelector",
        "parallelism",
        "podFailurePolicy",
        "podReplacementPolicy",
        "selector",
        "successPolicy",
        "template",
    ),
    ("rbac.authorization.k8s.io", "RoleBinding"): (("roleRef",),),
    ("rbac.authorization.k8s.io", "ClusterRoleBinding"): (("roleRef",),),
    ("storage.k8s.io", "StorageClass"): (("parameters",), ("provisioner",), ("reclaimPolicy",), ("volumeBindingMode",)),
}


def immutable_fields(obj: Object, settings: Settings) -> tuple[tuple[str, ...], ...]:
    """Paths of keys; `*` stands for any index. A change at, above or below one of them replaces the object."""
    group, kind = group_of(api_version_of(obj)), kind_of(obj)
    frozen = obj.get("immutable") is True
    if (group, kind) == ("", "Secret"):
        data = () if settings.enable_secret_mutable and not frozen else (("data",), ("stringData",))
        return (*IDENTITY, ("type",), *data)
    if (group, kind) == ("", "ConfigMap"):
        data = () if settings.enable_config_map_mutable and not frozen else (("data",), ("binaryData",))
        return (*IDENTITY, *data)
    return (*IDENTITY, *_BY_KIND.get((group, kind), ()))
