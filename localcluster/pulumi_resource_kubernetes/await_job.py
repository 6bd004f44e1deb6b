"""A Job is ready when it is complete; it has failed when Kubernetes says so."""

from dataclasses import replace
from functools import partial

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.objects import describe, dig, name_of
from localcluster.pulumi_resource_kubernetes.pods import PodWatch, selector_of
from localcluster.pulumi_resource_kubernetes.progress import Progress
from localcluster.pulumi_resource_kubernetes.values import Object


def job_progress(job: Object) -> Progress:
    """What a Job's status says."""
    status = job.get("status") or {}
    for condition in status.get("conditions") or []:
        if condition.get("status") != "True":
            continue
        if condition.get("type") == "Complete":
            return Progress(ready=True)
        if condition.get("type") == "Failed":
            why = f"{describe(job)}: [{condition.get('reason', 'Failed')}] {condition.get('message', 'the Job failed')}"
            return Progress(failed=True, reasons=(why,))
    if not status.get("startTime"):
        suspended = " (it is suspended)" if dig(job, "spec", "suspend") else ""
        return Progress(message=f"Waiting for Job {name_of(job)} to start{suspended}")
    counts = " | ".join(f"{key.capitalize()}: {status.get(key, 0)}" for key in ("active", "succeeded", "failed"))
    return Progress(message=f"Waiting for Job {name_of(job)} to succeed ({counts})")


class JobCondition:
    """Follows the Job and its pods, so that a failure comes with what the containers said."""

    def __init__(self, cluster: Cluster, job: Object) -> None:
        self._pods = PodWatch(cluster, selector_of(job))

    def look(self, live: Object) -> Progress:
        progress = job_progress(live)
        if progress.ready:
            return progress
        trouble = self._pods.look(live)
        if progress.failed:
            return replace(progress, explain=partial(self._pods.reasons, live))
        message = f"{progress.message}: {trouble[0]}" if trouble else progress.message
        return Progress(message=message, explain=partial(self._pods.reasons, live))
