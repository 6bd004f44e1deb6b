"""Which condition an object is waited for by: the user's annotations first, the kind's own rule otherwise."""

from collections.abc import Callable
from dataclasses import dataclass

from localcluster.pulumi_resource_kubernetes.await_infrastructure import (
    ClaimCondition,
    ServiceCondition,
    ingress_progress,
    volume_progress,
)
from localcluster.pulumi_resource_kubernetes.await_job import JobCondition
from localcluster.pulumi_resource_kubernetes.await_workloads import (
    PodCondition,
    WorkloadCondition,
    daemon_set_progress,
    deployment_progress,
    replication_controller_progress,
    stateful_set_progress,
)
from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.objects import (
    SKIP_AWAIT,
    WAIT_FOR,
    annotated_true,
    annotation,
    api_version_of,
    group_of,
    kind_of,
)
from localcluster.pulumi_resource_kubernetes.progress import Condition, Progress
from localcluster.pulumi_resource_kubernetes.values import Object
from localcluster.pulumi_resource_kubernetes.wait_for import AllOf


@dataclass(frozen=True)
class StatusCondition:
    """A condition that needs nothing but the object's own status."""

    progress: Callable[[Object], Progress]

    def look(self, live: Object) -> Progress:
        return self.progress(live)


def _workload(progress: Callable[[Object], Progress]) -> Callable[[Cluster, Object], Condition]:
    return lambda cluster, live: WorkloadCondition(cluster, live, progress)


_BY_KIND: dict[tuple[str, str], Callable[[Cluster, Object], Condition]] = {
    ("", "PersistentVolume"): lambda _cluster, _live: StatusCondition(volume_progress),
    ("", "PersistentVolumeClaim"): lambda cluster, _live: ClaimCondition(cluster),
    ("", "Pod"): lambda cluster, _live: PodCondition(cluster),
    ("", "ReplicationController"): _workload(replication_controller_progress),
    ("", "Service"): lambda cluster, _live: ServiceCondition(cluster),
    ("apps", "DaemonSet"): _workload(daemon_set_progress),
    ("apps", "Deployment"): _workload(deployment_progress),
    ("apps", "StatefulSet"): _workload(stateful_set_progress),
    ("batch", "Job"): JobCondition,
    ("networking.k8s.io", "Ingress"): lambda _cluster, _live: StatusCondition(ingress_progress),
}
# What a refresh looks at again: kinds whose readiness can be lost.
_CHECKED_ON_READ = frozenset(
    {
        ("apps", "DaemonSet"),
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("batch", "Job"),
        ("", "Pod"),
        ("", "Service"),
    }
)


def condition_for(cluster: Cluster, inputs: Object, live: Object) -> Condition | None:
    """What to wait for after a create or an update; None: nothing. Raises ExpressionError for a bad waitFor."""
    if annotated_true(inputs, SKIP_AWAIT):
        return None
    if wanted := annotation(live, WAIT_FOR):
        return AllOf(wanted)
    make = _BY_KIND.get((group_of(api_version_of(live)), kind_of(live)))
    return make(cluster, live) if make is not None else None


def condition_on_read(cluster: Cluster, inputs: Object, live: Object) -> Condition | None:
    """What a refresh checks, once; None: nothing."""
    if (group_of(api_version_of(live)), kind_of(live)) not in _CHECKED_ON_READ:
        return None
    return condition_for(cluster, inputs, live)
