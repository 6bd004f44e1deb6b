"""What changes between an object's last inputs and its new ones, and whether a new object is needed for it."""

from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum
from typing import TypeAlias

from localcluster.pulumi_resource_kubernetes.immutable import IDENTITY, immutable_fields
from localcluster.pulumi_resource_kubernetes.naming import is_autonamed, is_named
from localcluster.pulumi_resource_kubernetes.objects import api_version_of, group_of, name_of, namespace_of
from localcluster.pulumi_resource_kubernetes.quantity import is_quantity, parse
from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.pulumi_resource_kubernetes.values import Json, Object, Unknown

Path: TypeAlias = tuple[str | int, ...]


class Change(Enum):
    """What happens to one property."""

    ADD = "add"
    DELETE = "delete"
    UPDATE = "update"


class _Missing:
    """No value at all, as opposed to null."""


_MISSING = _Missing()


@dataclass(frozen=True, kw_only=True)
class PropertyChange:
    """One changed property; `replaces` says that only a new object can have it."""

    path: Path
    change: Change
    replaces: bool


def property_path(path: Path) -> str:
    """Pulumi's form of a path: `spec.template["a.b/c"].containers[0]`."""
    rendered = ""
    for step in path:
        if isinstance(step, int):
            rendered += f"[{step}]"
        elif any(character in step for character in '."[]'):
            quoted = step.replace('"', '\\"')
            rendered += f'["{quoted}"]'
        else:
            rendered += f".{step}" if rendered else step
    return rendered


def same(old: Json, new: Json, path: Path = ()) -> bool:
    """Whether two values mean the same to Kubernetes."""
    if isinstance(new, Unknown) or isinstance(old, Unknown):
        return False
    if isinstance(old, dict) and isinstance(new, dict):
        return old.keys() == new.keys() and all(same(old[key], new[key], (*path, key)) for key in old)
    if isinstance(old, list) and isinstance(new, list):
        return len(old) == len(new) and all(
            same(a, b, (*path, i)) for i, (a, b) in enumerate(zip(old, new, strict=True))
        )
    if old == new and isinstance(old, bool) == isinstance(new, bool):
        return True
    number = parse(old) if is_quantity(path) else None
    return number is not None and number == parse(new)


def changes(old: Object, new: Object, settings: Settings, *, patch: bool) -> list[PropertyChange]:
    """Every changed property, the deepest that can be named. A Patch resource is only replaced for another identity."""
    frozen = IDENTITY if patch else immutable_fields(new, settings)
    return [
        PropertyChange(
            path=path,
            change=change,
            replaces=_replaces(path, value, frozen) or (path == ("apiVersion",) and _other_group(old, new)),
        )
        for path, change, value in _compare(old, new, ())
    ]


def _other_group(old: Object, new: Object) -> bool:
    """Another API group is another kind of object; `extensions` was only the first home of today's kinds."""
    before = group_of(api_version_of(old))
    return before not in (group_of(api_version_of(new)), "extensions")


def _compare(old: Json | _Missing, new: Json | _Missing, path: Path) -> Iterator[tuple[Path, Change, Json]]:
    # null says the same as nothing.
    old = _MISSING if old is None else old
    new = _MISSING if new is None else new
    if isinstance(new, _Missing):
        if not isinstance(old, _Missing):
            yield path, Change.DELETE, old
    elif isinstance(old, _Missing):
        yield path, Change.ADD, new
    elif isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(key for key in new if key not in old)]:
            yield from _compare(old.get(key), new.get(key), (*path, key))
    elif isinstance(old, list) and isinstance(new, list):
        for index in range(max(len(old), len(new))):
            a = old[index] if index < len(old) else _MISSING
            b = new[index] if index < len(new) else _MISSING
            yield from _compare(a, b, (*path, index))
    elif not same(old, new, path):
        yield path, Change.UPDATE, new


def _replaces(path: Path, value: Json, frozen: tuple[tuple[str, ...], ...]) -> bool:
    """Whether the change lies at or below an immutable field, or holds one."""
    for field in frozen:
        overlap = min(len(path), len(field))
        if not all(expected in ("*", step) for expected, step in zip(field, path, strict=False)):
            continue
        if len(path) >= len(field) or _holds(value, field[overlap:]):
            return True
    return False


def _holds(value: Json, rest: tuple[str, ...]) -> bool:
    if not rest:
        return True
    if rest[0] == "*":
        return isinstance(value, list) and any(_holds(entry, rest[1:]) for entry in value)
    return isinstance(value, dict) and rest[0] in value and _holds(value[rest[0]], rest[1:])


def delete_before_replace(old: Object, new: Object) -> bool:
    """A name that the user fixed can't be taken twice: the old object has to go first."""
    return (
        is_named(new)
        and not is_autonamed(new)
        and name_of(new) == name_of(old)
        and namespace_of(new) == namespace_of(old)
    )
