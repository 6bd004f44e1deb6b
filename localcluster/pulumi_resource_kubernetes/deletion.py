"""Deleting an object, and giving back the fields of somebody else's."""

from localcluster.pulumi_resource_kubernetes.apply import Writer
from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.errors import ApiError, NotReadyError, ProviderError
from localcluster.pulumi_resource_kubernetes.objects import (
    DELETION_PROPAGATION,
    SKIP_AWAIT,
    annotated_true,
    annotation,
    api_version_of,
    describe,
    dig,
    group_of,
    kind_of,
)
from localcluster.pulumi_resource_kubernetes.progress import Patience, Progress, wait_until
from localcluster.pulumi_resource_kubernetes.values import Object

_PROPAGATION = {"orphan": "Orphan", "background": "Background"}
# Kinds for which the official provider lets skipAwait skip the wait for the deletion too.
_MAY_SKIP = frozenset(
    {
        ("", "Namespace"),
        ("", "Pod"),
        ("", "ReplicationController"),
        ("apps", "DaemonSet"),
        ("apps", "Deployment"),
        ("apps", "StatefulSet"),
        ("batch", "Job"),
    }
)


class _Gone:
    """Never ready by itself: the wait ends when the apiserver doesn't find the object any more, or finds another one."""

    def __init__(self, uid: str) -> None:
        self._uid = uid

    def look(self, live: Object) -> Progress:
        if dig(live, "metadata", "uid") != self._uid:
            return Progress(ready=True)
        finalizers = dig(live, "metadata", "finalizers") or []
        conditions = [c.get("message") for c in dig(live, "status", "conditions") or [] if c.get("status") == "True"]
        held = f" (finalizers: {', '.join(finalizers)})" if finalizers else ""
        return Progress(
            message=f"Waiting for {describe(live)} to be gone{held}",
            reasons=(f"finalizers might be preventing deletion ({', '.join(finalizers)})",) if finalizers else (),
            explain=lambda: tuple(str(message) for message in conditions if message),
        )


def delete(cluster: Cluster, obj: Object, inputs: Object, patience: Patience) -> None:
    """Deletes and waits. What isn't there is fine. Raises NotReadyError where it is still there after the time-out."""
    path = cluster.path_of(obj)
    policy = _PROPAGATION.get(annotation(inputs, DELETION_PROPAGATION).lower(), "Foreground")
    try:
        live = cluster.get(obj)
        cluster.request("DELETE", path, body={"propagationPolicy": policy})
    except ApiError as error:
        if error.not_found:
            return
        raise ProviderError(f"{describe(obj)} was not deleted: {error}") from None
    kind = group_of(api_version_of(obj)), kind_of(obj)
    if annotated_true(inputs, SKIP_AWAIT) and kind in _MAY_SKIP:
        return
    try:
        wait_until(_Gone(str(dig(live, "metadata", "uid"))), live, cluster, patience)
    except NotReadyError as error:
        if error.gone:
            patience.report("")
            return
        raise NotReadyError(f"{describe(obj)} is still being deleted: {error}", error.live, error.reasons) from None


def release(writer: Writer, obj: Object) -> None:
    """Gives up the fields that a Patch resource owns; the object itself stays."""
    try:
        writer.relinquish(obj)
    except ApiError as error:
        if error.not_found:
            return
        if error.status == 422 and "Required value" in error.message:
            fields = ", ".join(cause.path for cause in error.causes) or error.message
            raise ProviderError(
                f"this Patch of {describe(obj)} is the only owner of a required field ({fields}): set retainOnDelete on it, "
                "or let somebody else own that field first"
            ) from None
        raise ProviderError(f"the Patch of {describe(obj)} was not taken back: {error}") from None
