"""When volumes, Services and Ingresses are ready."""

import time

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.errors import ApiError
from localcluster.pulumi_resource_kubernetes.objects import dig, name_of, namespace_of
from localcluster.pulumi_resource_kubernetes.progress import Progress
from localcluster.pulumi_resource_kubernetes.values import Object

# A Service without a single endpoint counts as done after this: the official provider's time to settle.
_SETTLE_S = 10.0


def volume_progress(volume: Object) -> Progress:
    """A PersistentVolume is ready when a claim can have it, or has it."""
    phase = dig(volume, "status", "phase")
    if phase in ("Available", "Bound"):
        return Progress(ready=True)
    reason = dig(volume, "status", "message")
    return Progress(
        message=f"Waiting for PersistentVolume {name_of(volume)} (phase {phase or 'unknown'})",
        reasons=(str(reason),) if reason else (),
    )


def claim_progress(claim: Object, *, waits_for_consumer: bool) -> Progress:
    """A PersistentVolumeClaim is ready when bound; Pending is enough where only a pod that uses it has it bound."""
    phase = dig(claim, "status", "phase")
    if phase == "Bound" or (phase == "Pending" and waits_for_consumer):
        return Progress(ready=True)
    return Progress(
        message=f"Waiting for PersistentVolumeClaim {name_of(claim)} to be bound (phase {phase or 'unknown'})"
    )


class ClaimCondition:
    """Follows a claim; its storage class says whether it waits for a first consumer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._waits_for_consumer: bool | None = None

    def look(self, live: Object) -> Progress:
        if self._waits_for_consumer is None:
            self._waits_for_consumer = self._binding_mode(live) == "WaitForFirstConsumer"
        return claim_progress(live, waits_for_consumer=self._waits_for_consumer)

    def _binding_mode(self, claim: Object) -> str:
        name = dig(claim, "spec", "storageClassName")
        if not name:
            return ""
        identity = {"apiVersion": "storage.k8s.io/v1", "kind": "StorageClass", "metadata": {"name": name}}
        try:
            return str(self._cluster.get(identity).get("volumeBindingMode") or "")
        except ApiError:
            # A class that exists in name only matches a volume of the same class name: it binds at once.
            return ""


def endpoint_counts(slices: list[Object]) -> tuple[int, int]:
    """(ready, not ready) endpoints in the EndpointSlices of a Service."""
    ready = [
        dig(endpoint, "conditions", "ready") is not False
        for entry in slices
        for endpoint in entry.get("endpoints") or []
    ]
    return sum(ready), len(ready) - sum(ready)


class ServiceCondition:
    """Follows a Service: pods behind it where it selects any, an address where it asks for a load balancer."""

    def __init__(self, cluster: Cluster) -> None:
        self._cluster = cluster
        self._since = time.monotonic()

    def look(self, live: Object) -> Progress:
        name, spec = name_of(live), live.get("spec") or {}
        if spec.get("type") == "LoadBalancer" and not dig(live, "status", "loadBalancer", "ingress"):
            return Progress(
                message=f"Waiting for a load balancer's address for Service {name}",
                reasons=("the Service was not given an address: does this cluster offer load balancers?",),
            )
        if spec.get("type") == "ExternalName" or spec.get("clusterIP") == "None" or not spec.get("selector"):
            return Progress(ready=True)
        slices = self._cluster.list(
            "discovery.k8s.io/v1",
            "EndpointSlice",
            namespace_of(live),
            labelSelector=f"kubernetes.io/service-name={name}",
        )
        ready, unready = endpoint_counts(slices)
        settled = time.monotonic() - self._since >= _SETTLE_S
        if not unready and (ready or (slices and settled)):
            return Progress(ready=True)
        return Progress(
            message=f"Waiting for the pods behind Service {name} ({ready} ready, {unready} not ready)",
            reasons=("the Service has no ready pods: they aren't ready, or spec.selector matches none",)
            if not ready
            else (),
        )


def ingress_progress(ingress: Object) -> Progress:
    """An Ingress is ready when its controller has given it an address."""
    if dig(ingress, "status", "loadBalancer", "ingress"):
        return Progress(ready=True)
    return Progress(
        message=f"Waiting for an address for Ingress {name_of(ingress)}",
        reasons=(
            "no ingress controller has given it an address: is one installed, and is spec.ingressClassName its class?",
        ),
    )
