"""When pods that are meant to stay are ready: Pod, Deployment, StatefulSet, DaemonSet, ReplicationController."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.objects import dig, name_of, namespace_of
from localcluster.pulumi_resource_kubernetes.pods import (
    PodWatch,
    container_failures,
    pod_trouble,
    selector_of,
    warning_events,
)
from localcluster.pulumi_resource_kubernetes.progress import Progress
from localcluster.pulumi_resource_kubernetes.values import Object


def _count(obj: Object, *path: str, default: int = 0) -> int:
    value = dig(obj, *path)
    return value if isinstance(value, int) else default


def _observed(obj: Object) -> bool:
    """Whether the status speaks of the present spec."""
    return _count(obj, "status", "observedGeneration") >= _count(obj, "metadata", "generation", default=1)


def _condition(obj: Object, name: str) -> Object:
    found: list[Object] = [c for c in dig(obj, "status", "conditions") or [] if c.get("type") == name]
    return found[0] if found else {}


def deployment_progress(deployment: Object) -> Progress:
    """Rolled out: the new pods are all available, the old ones gone."""
    name, wanted = name_of(deployment), _count(deployment, "spec", "replicas", default=1)
    if not _observed(deployment):
        return Progress(message=f"Waiting for the controller to see Deployment {name}")
    progressing, available = _condition(deployment, "Progressing"), _condition(deployment, "Available")
    updated = _count(deployment, "status", "updatedReplicas")
    ready = _count(deployment, "status", "readyReplicas")
    reasons = tuple(
        f"[{condition.get('reason')}] {condition.get('message')}"
        for condition in (progressing, available, _condition(deployment, "ReplicaFailure"))
        if condition and (condition.get("status") == "False") != (condition.get("type") == "ReplicaFailure")
    )
    rolled_out = progressing.get("status") == "True" and progressing.get("reason") == "NewReplicaSetAvailable"
    settled = updated == wanted == ready == _count(deployment, "status", "replicas")
    if (rolled_out or wanted == 0) and available.get("status") == "True" and settled:
        return Progress(ready=True)
    return Progress(
        message=f"Waiting for Deployment {name} ({ready}/{wanted} pods ready, {updated} updated)", reasons=reasons
    )


def stateful_set_progress(stateful_set: Object) -> Progress:
    """Every replica ready and of the present revision (OnDelete: ready is enough)."""
    name, wanted = name_of(stateful_set), _count(stateful_set, "spec", "replicas", default=1)
    if not _observed(stateful_set):
        return Progress(message=f"Waiting for the controller to see StatefulSet {name}")
    status = stateful_set.get("status") or {}
    ready = _count(stateful_set, "status", "readyReplicas")
    replicas_ready = wanted == _count(stateful_set, "status", "replicas") == ready
    if (
        dig(stateful_set, "spec", "updateStrategy", "type") == "OnDelete"
        and dig(stateful_set, "metadata", "generation") != 1
    ):
        rolled_out = True
    else:
        same_revision = bool(status.get("currentRevision")) and status.get("currentRevision") == status.get(
            "updateRevision"
        )
        rolled_out = same_revision and _count(stateful_set, "status", "currentReplicas") == wanted
    if replicas_ready and rolled_out:
        return Progress(ready=True)
    return Progress(message=f"Waiting for StatefulSet {name} ({ready}/{wanted} pods ready)")


def daemon_set_progress(daemon_set: Object) -> Progress:
    """A pod of the present revision available on each node that should have one."""
    name = name_of(daemon_set)
    if not _observed(daemon_set):
        return Progress(message=f"Waiting for the controller to see DaemonSet {name}")
    wanted = _count(daemon_set, "status", "desiredNumberScheduled", default=-1)
    available = _count(daemon_set, "status", "numberAvailable")
    updated = _count(daemon_set, "status", "updatedNumberScheduled")
    on_delete = dig(daemon_set, "spec", "updateStrategy", "type") == "OnDelete"
    if wanted >= 0 and available >= wanted and (on_delete or updated >= wanted):
        return Progress(ready=True)
    return Progress(
        message=f"Waiting for DaemonSet {name} ({available}/{max(wanted, 0)} pods available, {updated} updated)"
    )


def replication_controller_progress(controller: Object) -> Progress:
    """As many available replicas as wanted."""
    wanted = _count(controller, "spec", "replicas", default=1)
    available = _count(controller, "status", "availableReplicas")
    if available == wanted and _observed(controller):
        return Progress(ready=True)
    return Progress(
        message=f"Waiting for ReplicationController {name_of(controller)} ({available}/{wanted} pods available)"
    )


def pod_progress(pod: Object) -> Progress:
    """Ready, or ended well."""
    phase = dig(pod, "status", "phase")
    if phase == "Succeeded" or _condition(pod, "Ready").get("status") == "True":
        return Progress(ready=True)
    failures = tuple(failure.describe("") for failure in container_failures(pod))
    trouble = pod_trouble(pod)
    reasons = (*failures, *trouble)
    if phase == "Failed":
        return Progress(failed=True, reasons=reasons or (f"pod {name_of(pod)} failed",))
    step = next(
        (kind for kind in ("PodScheduled", "Initialized", "Ready") if _condition(pod, kind).get("status") != "True"),
        "Ready",
    )
    waiting = {"PodScheduled": "scheduled", "Initialized": "initialized", "Ready": "ready"}[step]
    return Progress(
        message=f"Waiting for Pod {name_of(pod)} to be {waiting}" + (f": {trouble[0]}" if trouble else ""),
        reasons=reasons,
    )


class WorkloadCondition:
    """Follows a workload's own status, and its pods for what is wrong."""

    def __init__(self, cluster: Cluster, workload: Object, progress: Callable[[Object], Progress]) -> None:
        self._progress = progress
        self._pods = PodWatch(cluster, selector_of(workload))

    def look(self, live: Object) -> Progress:
        progress = self._progress(live)
        if progress.ready:
            return progress
        trouble = self._pods.look(live)
        message = f"{progress.message}: {trouble[0]}" if trouble else progress.message
        return replace(progress, message=message, explain=partial(self._pods.reasons, live))


class PodCondition:
    """Follows one pod, and its events for what is wrong."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster

    def look(self, live: Object) -> Progress:
        return replace(pod_progress(live), explain=partial(self._events, live))

    def _events(self, pod: Object) -> tuple[str, ...]:
        return tuple(warning_events(self._cluster, namespace_of(pod), {str(dig(pod, "metadata", "uid"))})[-5:])
