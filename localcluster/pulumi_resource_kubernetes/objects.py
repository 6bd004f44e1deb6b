"""Kubernetes objects as plain dictionaries: identity, annotations, and the forms that mean the same."""

import base64
import binascii
import copy
from typing import Any

from localcluster.pulumi_resource_kubernetes.values import Json, Object, Unknown

LAST_APPLIED = "kubectl.kubernetes.io/last-applied-configuration"
AUTONAMED = "pulumi.com/autonamed"
SKIP_AWAIT = "pulumi.com/skipAwait"
WAIT_FOR = "pulumi.com/waitFor"
TIMEOUT_SECONDS = "pulumi.com/timeoutSeconds"
REPLACE_UNREADY = "pulumi.com/replaceUnready"
PATCH_FORCE = "pulumi.com/patchForce"
PATCH_FIELD_MANAGER = "pulumi.com/patchFieldManager"
DELETION_PROPAGATION = "pulumi.com/deletionPropagationPolicy"

_READ_ONLY_METADATA = (
    "creationTimestamp",
    "deletionGracePeriodSeconds",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "selfLink",
    "uid",
)


def dig(value: Json, *path: str | int) -> Json:
    """The value at a path of keys and indices; None where there is none."""
    for step in path:
        if isinstance(step, int):
            value = value[step] if isinstance(value, list) and len(value) > step else None
        else:
            value = value.get(step) if isinstance(value, dict) else None
    return value


def text(value: Json) -> str:
    """A string, or "" for anything else (absent, unknown)."""
    return value if isinstance(value, str) else ""


def name_of(obj: Object) -> str:
    return text(dig(obj, "metadata", "name"))


def namespace_of(obj: Object) -> str:
    return text(dig(obj, "metadata", "namespace"))


def kind_of(obj: Object) -> str:
    return text(obj.get("kind"))


def api_version_of(obj: Object) -> str:
    return text(obj.get("apiVersion"))


def group_of(api_version: str) -> str:
    """ "" for the core group."""
    return api_version.rpartition("/")[0]


def metadata_of(obj: Object) -> dict[str, Any]:
    """The metadata, made where there is none, so that it can be written to. An unknown one is left as it is."""
    metadata = obj.get("metadata")
    if metadata is None:
        metadata = obj["metadata"] = {}
    return metadata if isinstance(metadata, dict) else {}


def annotation(obj: Object, key: str) -> str:
    return text(dig(obj, "metadata", "annotations", key))


def annotated_true(obj: Object, key: str) -> bool:
    return annotation(obj, key) == "true"


def annotate(obj: Object, key: str, value: str) -> None:
    """Sets an annotation; nothing where the annotations are unknown yet."""
    metadata = metadata_of(obj)
    annotations = metadata.get("annotations")
    if annotations is None:
        annotations = metadata["annotations"] = {}
    if isinstance(annotations, dict):
        annotations[key] = value


def object_id(obj: Object) -> str:
    """`namespace/name`, or `name` for what has no namespace: the resource's id in the state."""
    namespace = namespace_of(obj)
    return f"{namespace}/{name_of(obj)}" if namespace else name_of(obj)


def parse_id(identifier: str) -> tuple[str, str]:
    """(namespace or "", name)."""
    namespace, _, name = identifier.rpartition("/")
    return namespace, name


def describe(obj: Object) -> str:
    """`Job models/convert-1f2e`: how messages call an object."""
    return f"{kind_of(obj)} {object_id(obj)}"


def is_secret(obj: Object) -> bool:
    return kind_of(obj) == "Secret" and api_version_of(obj) == "v1"


def is_crd(obj: Object) -> bool:
    return kind_of(obj) == "CustomResourceDefinition" and group_of(api_version_of(obj)) == "apiextensions.k8s.io"


def normalized(obj: Object) -> Object:
    """A copy without read-only metadata; a Secret's stringData becomes data, as the server stores it."""
    obj = copy.deepcopy(obj)
    metadata = obj.get("metadata")
    if isinstance(metadata, dict):
        for key in _READ_ONLY_METADATA:
            metadata.pop(key, None)
    if is_secret(obj):
        _encode_string_data(obj)
    if is_crd(obj):
        obj.pop("status", None)
    return obj


def _encode_string_data(obj: Object) -> None:
    data, plain = obj.get("data"), obj.get("stringData")
    if isinstance(plain, Unknown) or isinstance(data, Unknown):
        return
    encoded: Object = {key: _canonical_base64(value) for key, value in (data or {}).items()}
    for key, value in (plain or {}).items():
        encoded[key] = base64.b64encode(value.encode()).decode() if isinstance(value, str) else value
    if encoded:
        obj["data"] = encoded
    obj.pop("stringData", None)


def _canonical_base64(value: Json) -> Json:
    if not isinstance(value, str):
        return value
    try:
        return base64.b64encode(base64.b64decode(value, validate=False)).decode()
    except (binascii.Error, ValueError):
        # The server says what is wrong with it.
        return value


def gvk_of_token(token: str) -> tuple[str, str]:
    """(apiVersion, kind) of a type token such as `kubernetes:apps/v1:Deployment` or `kubernetes:core/v1:PodPatch`."""
    _, _, rest = token.partition(":")
    api_version, _, kind = rest.partition(":")
    return api_version.removeprefix("core/"), kind


def type_of_urn(urn: str) -> str:
    """The type token in a URN (`urn:pulumi:STACK::PROJECT::PARENTS$TYPE::NAME`)."""
    return urn.split("::")[2].rpartition("$")[2]


def name_of_urn(urn: str) -> str:
    return urn.split("::", 3)[3]


def is_patch(urn: str, obj: Object) -> bool:
    """Whether the resource is one of the SDK's `…Patch` kinds: it owns some fields of an object of somebody else's."""
    kind = gvk_of_token(type_of_urn(urn))[1]
    return kind.endswith("Patch") and kind == f"{kind_of(obj)}Patch"
