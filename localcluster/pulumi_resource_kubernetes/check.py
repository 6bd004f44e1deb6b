"""Check and Diff: what the inputs become before they are used, and what they change."""

from dataclasses import dataclass

from localcluster.pulumi_resource_kubernetes import checkpoint
from localcluster.pulumi_resource_kubernetes.await_job import job_progress
from localcluster.pulumi_resource_kubernetes.diff import Change, PropertyChange, changes, delete_before_replace
from localcluster.pulumi_resource_kubernetes.errors import ApiError, ProviderError
from localcluster.pulumi_resource_kubernetes.naming import Autonaming, assign_name, is_named
from localcluster.pulumi_resource_kubernetes.objects import (
    REPLACE_UNREADY,
    WAIT_FOR,
    annotated_true,
    annotation,
    describe,
    is_patch,
    kind_of,
    metadata_of,
    name_of,
    name_of_urn,
    namespace_of,
    normalized,
)
from localcluster.pulumi_resource_kubernetes.session import Session
from localcluster.pulumi_resource_kubernetes.values import Object
from localcluster.pulumi_resource_kubernetes.wait_for import AllOf


@dataclass(frozen=True, kw_only=True)
class Difference:
    """What an update would change, and how it would be done."""

    changes: list[PropertyChange]
    delete_before_replace: bool


def checked(
    session: Session, urn: str, news: Object, olds: Object, seed: bytes, autonaming: Autonaming | None
) -> Object:
    """The inputs with a name and a namespace, in normal form, secrets marked. Raises ProviderError, NamingError,
    ExpressionError."""
    new = normalized(checkpoint.to_object(news))
    if kind_of(new).endswith("List") and "items" in new:
        raise ProviderError(
            f"{kind_of(new)} is a list of objects, not an object: declare its items as resources of their own"
        )
    if is_patch(urn, new) and not is_named(new):
        raise ProviderError(
            f"a {kind_of(new)}Patch changes an object that is there already: set metadata.name to its name"
        )
    if wanted := annotation(new, WAIT_FOR):
        # A mistake in it must not show after the object is made.
        AllOf(wanted)
    assign_name(new, checkpoint.to_object(olds), name_of_urn(urn), seed, autonaming)
    session.scopes.learn(new)
    session.scopes.place(new, session.cluster_or_none(), session.default_namespace)
    return checkpoint.from_object(new, news)


def difference(session: Session, urn: str, state: Object, old_properties: Object, news: Object) -> Difference:
    """Compares the last inputs with the new ones; the state's object says where the old one lives."""
    new = normalized(checkpoint.to_object(news))
    live = checkpoint.recorded_live(state)
    old = checkpoint.recorded_inputs(state) or checkpoint.to_object(old_properties)
    old = normalized(old or checkpoint.like_inputs(live, new))
    _align(session, old, new, live)
    found = changes(old, new, session.settings, patch=is_patch(urn, new))
    if annotated_true(new, REPLACE_UNREADY):
        found = [*found, *_unready(session, urn, new, live)]
    replaced = any(change.replaces for change in found)
    return Difference(changes=found, delete_before_replace=replaced and delete_before_replace(live, new))


def _align(session: Session, old: Object, new: Object, live: Object) -> None:
    """The identity is the live object's: a name or namespace that is only now written down changes nothing."""
    if is_named(new) and name_of(live):
        metadata_of(old)["name"] = name_of(live)
    if session.scopes.namespaced(new, session.cluster_or_none()):
        metadata_of(old)["namespace"] = namespace_of(live) or namespace_of(old) or "default"
        metadata_of(new).setdefault("namespace", "default")
    else:
        metadata_of(old).pop("namespace", None)
        metadata_of(new).pop("namespace", None)


def _unready(session: Session, urn: str, new: Object, live: Object) -> list[PropertyChange]:
    """The annotation asks for a new object in place of one that isn't ready now. Only Jobs can be judged by that."""
    if kind_of(new) != "Job":
        session.engine.warning(urn, f"{REPLACE_UNREADY} is followed for Jobs only, not for {describe(new)}")
        return []
    try:
        job = session.cluster().get(live)
    except ProviderError as error:
        gone = isinstance(error, ApiError) and error.not_found
        why = "it isn't in the cluster any more: run `pulumi refresh`" if gone else f"it can't be seen: {error}"
        session.engine.warning(urn, f"{describe(live)} is not replaced, whether it completed or not: {why}")
        return []
    if job_progress(job).ready:
        return []
    path = ("metadata", "annotations", REPLACE_UNREADY)
    return [PropertyChange(path=path, change=Change.UPDATE, replaces=True)]
