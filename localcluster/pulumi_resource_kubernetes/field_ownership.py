"""Who owns which fields of an object (metadata.managedFields), where Pulumi has to settle it.

A create is a plain POST by the manager `pulumi-kubernetes`, as the official provider does it: it fails where the object
exists. The first update hands those fields to the stack's own server-side-apply manager, or it could never remove one.
"""

import copy
from typing import Any

from localcluster.pulumi_resource_kubernetes.values import Json, Object

CREATE_MANAGER = "pulumi-kubernetes"
# Managers whose fields the stack takes over on its first apply: kubectl's, and this provider's own without apply.
_ABSORBED = frozenset(
    {
        ("kubectl", "Apply"),
        ("kubectl", "Update"),
        ("before-first-apply", "Update"),
        ("pulumi-kubernetes", "Update"),
        ("pulumi-kubernetes.exe", "Update"),
        ("pulumi-resource-kubernetes", "Update"),
    }
)


def entries_of(live: Object) -> list[dict[str, Any]]:
    """The object's managedFields."""
    return list((live.get("metadata") or {}).get("managedFields") or [])


def handover(live: Object, manager: str) -> list[Object] | None:
    """The JSON patch that gives the absorbed managers' fields to `manager`; None where there are none."""
    kept: list[dict[str, Any]] = []
    taken: Object = {}
    version = ""
    for entry in entries_of(live):
        who = (entry.get("manager", ""), entry.get("operation", ""))
        ours = who == (manager, "Apply")
        if (ours or who in _ABSORBED) and not entry.get("subresource"):
            taken = _union(taken, entry.get("fieldsV1") or {})
            version = entry.get("apiVersion", version)
        else:
            kept.append(entry)
    absorbed = any(
        (e.get("manager"), e.get("operation")) in _ABSORBED and not e.get("subresource") for e in entries_of(live)
    )
    if not absorbed:
        return None
    own = {"manager": manager, "operation": "Apply", "apiVersion": version, "fieldsType": "FieldsV1", "fieldsV1": taken}
    return [
        # An object that somebody changed meanwhile must not lose that owner.
        {"op": "test", "path": "/metadata/resourceVersion", "value": live["metadata"]["resourceVersion"]},
        {"op": "replace", "path": "/metadata/managedFields", "value": [*kept, own]},
    ]


def _union(one: Json, other: Json) -> Json:
    if not isinstance(one, dict) or not isinstance(other, dict):
        return other
    return {key: _union(one.get(key, {}), other.get(key, {})) for key in {**one, **other}}


def made_without_apply(live: Object) -> bool:
    """Whether this provider made the object by a plain create and never applied since."""
    return any(
        entry.get("operation") == "Update"
        and str(entry.get("manager", "")).startswith(("pulumi-kubernetes", "pulumi-resource"))
        for entry in entries_of(live)
    )


def follow_ignored(inputs: Object, live: Object, ignored: list[list[str]], manager: str) -> Object:
    """The inputs with `ignoreChanges` respected: a field that only others own is left out, any other keeps its live value."""
    result = copy.deepcopy(inputs)
    ours = [e for e in entries_of(live) if e.get("manager") == manager]
    theirs = [e for e in entries_of(live) if e.get("manager") != manager]
    for path in ignored:
        holder: Json = result
        current: Json = live
        for step in path[:-1]:
            holder = holder.get(step) if isinstance(holder, dict) else None
            current = current.get(step) if isinstance(current, dict) else None
        if not isinstance(holder, dict) or path[-1] not in holder:
            continue
        if any(_owns(entry, path) for entry in theirs) and not any(_owns(entry, path) for entry in ours):
            del holder[path[-1]]
        elif isinstance(current, dict) and path[-1] in current:
            holder[path[-1]] = current[path[-1]]
    return result


def _owns(entry: Object, path: list[str]) -> bool:
    fields: Json = entry.get("fieldsV1")
    for step in path:
        if not isinstance(fields, dict) or f"f:{step}" not in fields:
            return False
        fields = fields[f"f:{step}"]
    return True
