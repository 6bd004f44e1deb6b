"""What the state keeps of an object: the live object, the inputs it was made from, and which of it is secret.

The bookkeeping keys are the official provider's, so that either provider can go on with the other's state.
"""

from typing import Any

from localcluster.pulumi_resource_kubernetes.diff import same
from localcluster.pulumi_resource_kubernetes.objects import LAST_APPLIED, api_version_of, is_secret, kind_of
from localcluster.pulumi_resource_kubernetes.values import Json, Object, Secret, has_secret, reveal

_INPUTS = "__inputs"
_INITIAL_API_VERSION = "__initialApiVersion"
_FIELD_MANAGER = "__fieldManager"
# JSON schema extensions can't be property names in Pulumi's SDKs.
_DASHED = {
    f"x_kubernetes_{name.replace('-', '_')}": f"x-kubernetes-{name}"
    for name in (
        "embedded-resource",
        "int-or-string",
        "list-map-keys",
        "list-type",
        "map-type",
        "preserve-unknown-fields",
        "validations",
    )
}
_UNDERSCORED = {dashed: underscored for underscored, dashed in _DASHED.items()}


def _renamed(value: Json, names: dict[str, str]) -> Json:
    if isinstance(value, dict):
        return {names.get(key, key): _renamed(entry, names) for key, entry in value.items()}
    if isinstance(value, list):
        return [_renamed(entry, names) for entry in value]
    return value


def to_object(properties: Object) -> Object:
    """The Kubernetes object in a property map: secrets revealed, names as in Kubernetes."""
    plain: Object = _renamed(reveal(properties), _DASHED)
    return plain


def from_object(obj: Object, marked: Object) -> Object:
    """The property map of an object; what is secret in `marked` is secret in it, and a Secret's data always is."""
    properties: Object = _renamed(obj, _UNDERSCORED)
    return mark_secrets(properties, marked)


def mark_secrets(properties: Object, marked: Object) -> Object:
    """Copies secretness: key by key in maps, as a whole for everything else (a list's order isn't to be relied on)."""
    if kind_of(properties) == "Secret":
        return {
            key: Secret(reveal(value)) if key in ("data", "stringData") and value is not None else value
            for key, value in properties.items()
        }
    result = dict(properties)
    for key, mark in marked.items():
        if key not in result or isinstance(result[key], Secret):
            continue
        if isinstance(result[key], dict) and isinstance(mark, dict):
            result[key] = mark_secrets(result[key], mark)
        elif has_secret(mark):
            result[key] = Secret(result[key])
    return result


def outputs(*, live: Object, inputs: Object, marked: Object, initial_api_version: str, field_manager: str) -> Object:
    """The properties to record. managedFields (read afresh when needed) and kubectl's copy of the inputs stay out."""
    shown = dict(live)
    metadata = dict(shown.get("metadata") or {})
    metadata.pop("managedFields", None)
    annotations = metadata.get("annotations")
    if isinstance(annotations, dict) and LAST_APPLIED in annotations:
        metadata["annotations"] = {key: value for key, value in annotations.items() if key != LAST_APPLIED}
    shown["metadata"] = metadata
    if is_secret(live) and "stringData" in marked and "data" not in marked:
        marked = {**marked, "data": marked["stringData"]}
    return {
        **from_object(shown, marked),
        _INPUTS: from_object(inputs, marked),
        _INITIAL_API_VERSION: initial_api_version,
        _FIELD_MANAGER: field_manager,
    }


def recorded_inputs(state: Object) -> Object:
    """The inputs that a state was made from; {} for a state without any (an import)."""
    inputs: Any = reveal(state.get(_INPUTS))
    return to_object(inputs) if isinstance(inputs, dict) else {}


def recorded_live(state: Object) -> Object:
    """The live object of a state, without the bookkeeping."""
    return to_object({key: value for key, value in state.items() if not key.startswith("__")})


def recorded_field_manager(state: Object) -> str:
    """The name that owns the object's fields; "" where none is recorded."""
    manager = reveal(state.get(_FIELD_MANAGER))
    return manager if isinstance(manager, str) else ""


def recorded_api_version(state: Object, inputs: Object) -> str:
    """The apiVersion that the object was first made with."""
    version = reveal(state.get(_INITIAL_API_VERSION))
    return version if isinstance(version, str) else api_version_of(inputs)


def like_inputs(live: Object, inputs: Object) -> Object:
    """The inputs that describe a live object: of what the inputs speak of, and in their words where those still hold."""
    described = _described(live, inputs, ())
    return described if isinstance(described, dict) else {}


def _described(live: Json, inputs: Json, path: tuple[str | int, ...]) -> Json:
    if isinstance(live, dict) and isinstance(inputs, dict):
        # The server drops what is empty; that is no change.
        return {
            key: _described(live[key], value, (*path, key)) if key in live else value
            for key, value in inputs.items()
            if key in live or value in ({}, [], "", None)
        }
    if isinstance(live, list) and isinstance(inputs, list):
        # What was added at the end by somebody else (an admission webhook, a controller) isn't ours.
        pairs = zip(live, inputs, strict=False)
        return [_described(entry, value, (*path, index)) for index, (entry, value) in enumerate(pairs)]
    return inputs if same(inputs, live, path) else live
