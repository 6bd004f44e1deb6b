"""Create, update, read and delete of one resource, from the inputs and the state that the engine holds."""

import secrets
from dataclasses import dataclass
from functools import partial

from localcluster.pulumi_resource_kubernetes import checkpoint, deletion
from localcluster.pulumi_resource_kubernetes.apply import AlreadyExistsError, Writer
from localcluster.pulumi_resource_kubernetes.errors import ApiError, NoSuchKindError, NotReadyError, ProviderError
from localcluster.pulumi_resource_kubernetes.objects import (
    LAST_APPLIED,
    PATCH_FIELD_MANAGER,
    annotation,
    api_version_of,
    describe,
    gvk_of_token,
    is_patch,
    metadata_of,
    name_of,
    namespace_of,
    normalized,
    object_id,
    parse_id,
    type_of_urn,
)
from localcluster.pulumi_resource_kubernetes.progress import Patience, timeout_of, wait_until
from localcluster.pulumi_resource_kubernetes.readiness import condition_for, condition_on_read
from localcluster.pulumi_resource_kubernetes.session import Session
from localcluster.pulumi_resource_kubernetes.values import Object, has_unknown


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """What the state records: no identifier means that there is no such object (any more)."""

    identifier: str
    outputs: Object
    inputs: Object
    not_ready: NotReadyError | None = None


@dataclass(frozen=True, kw_only=True)
class Target:
    """The resource that an operation is about."""

    urn: str
    timeout_s: float = 0.0
    preview: bool = False


def field_manager(inputs: Object, state: Object) -> str:
    """The name under which this resource owns its fields: annotated, else recorded, else new."""
    named = annotation(inputs, PATCH_FIELD_MANAGER) or checkpoint.recorded_field_manager(state)
    return named or f"pulumi-kubernetes-{secrets.token_hex(4)}"


def _writer(session: Session, target: Target, manager: str) -> Writer:
    return Writer(
        cluster=session.cluster(),
        manager=manager,
        force=session.settings.enable_patch_force,
        dry_run=target.preview,
        cancelled=session.cancelled,
        report=partial(session.engine.status, target.urn),
        warn=partial(session.warn_of_answer, target.urn),
    )


def _patience(session: Session, target: Target, inputs: Object) -> Patience:
    report = partial(session.engine.status, target.urn)
    return Patience(timeout_s=timeout_of(inputs, target.timeout_s), cancelled=session.cancelled, report=report)


def _awaited(session: Session, target: Target, inputs: Object, live: Object) -> Object:
    condition = condition_for(session.cluster(), inputs, live)
    return (
        live
        if condition is None
        else wait_until(condition, live, session.cluster(), _patience(session, target, inputs))
    )


def can_preview(session: Session, target: Target, inputs: Object) -> bool:
    """Whether the apiserver can be asked what would come out; the inputs stand in for the outputs otherwise."""
    if has_unknown(inputs) or not session.reachable(target.urn):
        return False
    try:
        session.cluster().path_of(inputs)
    except NoSuchKindError:
        return False
    return True


def _previewable(error: ProviderError) -> bool:
    """Refusals of a dry run that say nothing about the real thing."""
    if isinstance(error, (AlreadyExistsError, NoSuchKindError)):
        return True  # a replacement whose predecessor is still there; a CRD that comes with this update
    if not isinstance(error, ApiError):
        return False
    immutable = error.status == 422 and "field is immutable" in error.message
    no_dry_run = error.status == 400 and "does not support dry run" in error.message
    return error.status == 403 or error.namespace_missing or immutable or no_dry_run


def create(session: Session, target: Target, properties: Object) -> Outcome:
    """Makes the object and waits for it. Raises ProviderError where it wasn't made."""
    inputs = checkpoint.to_object(properties)
    patch = is_patch(target.urn, inputs)
    unchanged = Outcome(identifier="", outputs=properties, inputs=properties)
    if target.preview and (patch or not can_preview(session, target, inputs)):
        return unchanged
    manager = field_manager(inputs, {})
    writer = _writer(session, target, manager)
    try:
        live = writer.upsert(inputs) if patch or session.settings.upsert_existing_objects else writer.create(inputs)
    except ProviderError as error:
        if target.preview and _previewable(error):
            return unchanged
        raise ProviderError(f"{describe(inputs)} was not made: {error}") from None
    session.engine.status(target.urn, "")
    not_ready = None
    if target.preview:
        live.pop("status", None)
    else:
        try:
            live = _awaited(session, target, inputs, live)
        except NotReadyError as error:
            live, not_ready = error.live, error
    return _outcome(live, inputs, properties, api_version_of(inputs), manager, not_ready, preview=target.preview)


def update(session: Session, target: Target, olds: Object, news: Object, ignored: list[list[str]]) -> Outcome:
    """Brings the object to the new inputs and waits for it. Raises ProviderError where it wasn't changed."""
    inputs = normalized(checkpoint.to_object(news))
    if target.preview and not can_preview(session, target, inputs):
        return Outcome(identifier="", outputs=news, inputs=news)
    patch = is_patch(target.urn, inputs)
    old_inputs = checkpoint.recorded_inputs(olds)
    manager, former = field_manager(inputs, olds), field_manager(old_inputs, olds)
    writer = _writer(session, target, manager)
    try:
        live = writer.update(inputs, ignored, patch=patch)
    except ProviderError as error:
        if target.preview and isinstance(error, ApiError) and error.status == 403:
            return Outcome(identifier="", outputs=news, inputs=news)
        if isinstance(error, ApiError) and error.not_found:
            raise ProviderError(
                f"{describe(inputs)} isn't in the cluster any more, though the state says it is: run `pulumi refresh`, "
                "then `pulumi up` again"
            ) from None
        raise ProviderError(f"{describe(inputs)} was not updated: {error}") from None
    not_ready = None
    if not target.preview:
        try:
            live = _awaited(session, target, inputs, live)
        except NotReadyError as error:
            live, not_ready = error.live, error
        if former != manager:
            _writer(session, target, former).relinquish(inputs)
    version = checkpoint.recorded_api_version(olds, old_inputs)
    return _outcome(live, inputs, news, version, manager, not_ready, preview=target.preview)


def _outcome(
    live: Object,
    inputs: Object,
    marked: Object,
    version: str,
    manager: str,
    not_ready: NotReadyError | None,
    *,
    preview: bool,
) -> Outcome:
    outputs = checkpoint.outputs(
        live=live, inputs=inputs, marked=marked, initial_api_version=version, field_manager=manager
    )
    return Outcome(identifier="" if preview else object_id(live), outputs=outputs, inputs=marked, not_ready=not_ready)


GONE = Outcome(identifier="", outputs={}, inputs={})


def read(session: Session, target: Target, identifier: str, state: Object, properties: Object) -> Outcome:
    """The object as it is now, for a refresh or an import. GONE where the cluster has none."""
    namespace, name = parse_id(identifier)
    if not name:
        raise ProviderError(f"{identifier!r} is no id of a Kubernetes object: use NAME or NAMESPACE/NAME")
    inputs = normalized(checkpoint.to_object(properties))
    imported = not (api_version_of(inputs) and name_of(inputs))
    if imported:
        recorded = checkpoint.recorded_live(state)
        api_version, kind = gvk_of_token(type_of_urn(target.urn))
        kind = kind.removesuffix("Patch") if recorded.get("kind") == kind.removesuffix("Patch") else kind
        inputs = {
            "apiVersion": api_version,
            "kind": kind,
            **{k: recorded[k] for k in ("apiVersion", "kind") if k in recorded},
        }
        inputs["metadata"] = {"name": name, **({"namespace": namespace} if namespace else {})}
    cluster = session.cluster()
    asked = {**inputs, "metadata": {"name": name, "namespace": namespace or namespace_of(inputs)}}
    if not asked["metadata"]["namespace"] and session.scopes.namespaced(inputs, cluster):
        asked["metadata"]["namespace"] = cluster.namespace
    try:
        live = cluster.get(asked)
    except NoSuchKindError:
        return GONE
    except ApiError as error:
        if error.not_found:
            return GONE
        raise
    described = _whole(live) if imported else checkpoint.like_inputs(live, inputs)
    not_ready = None if imported else _unready(session, inputs, live)
    manager = field_manager(inputs, state)
    return Outcome(
        identifier=identifier,
        outputs=checkpoint.outputs(
            live=live,
            inputs=described,
            marked=properties,
            initial_api_version=checkpoint.recorded_api_version(state, inputs),
            field_manager=manager,
        ),
        inputs=checkpoint.from_object(described, properties),
        not_ready=not_ready,
    )


def _whole(live: Object) -> Object:
    """The inputs of an imported object: everything that isn't the server's own."""
    inputs = normalized({key: value for key, value in live.items() if key != "status"})
    annotations = metadata_of(inputs).get("annotations") or {}
    for key in (LAST_APPLIED, "deployment.kubernetes.io/revision"):
        annotations.pop(key, None)
    return inputs


def _unready(session: Session, inputs: Object, live: Object) -> NotReadyError | None:
    condition = condition_on_read(session.cluster(), inputs, live)
    progress = None if condition is None else condition.look(live)
    if progress is None or progress.ready:
        return None
    last = (progress.message,) if progress.message else ()
    return NotReadyError(f"{describe(live)} isn't ready", live, (*progress.all_reasons(), *last))


def delete(session: Session, target: Target, identifier: str, state: Object) -> NotReadyError | None:
    """Deletes the object and waits until it is gone; an error to record where it is still going after the time-out."""
    inputs, live = checkpoint.recorded_inputs(state), checkpoint.recorded_live(state)
    namespace, name = parse_id(identifier)
    metadata_of(live).update({"name": name, **({"namespace": namespace} if namespace else {})})
    try:
        if is_patch(target.urn, live):
            deletion.release(_writer(session, target, field_manager(inputs, state)), live)
        else:
            deletion.delete(session.cluster(), live, inputs, _patience(session, target, inputs))
    except NotReadyError as error:
        return error
    except NoSuchKindError:
        # With its CRD an object is gone as well.
        return None
    return None
