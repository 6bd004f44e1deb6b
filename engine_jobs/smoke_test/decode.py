"""Reads JSON values into frozen dataclasses, strictly: an unknown key, a missing one, a wrong type is a UserError."""

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from typing import Any, TypeVar

from engine_jobs.errors import UserError

Json = None | bool | int | float | str | list["Json"] | dict[str, "Json"]
T = TypeVar("T")

KIND = "kind"
"""The key by which a union's member names itself; each such dataclass has a class attribute `kind`."""


def encode(value: object) -> Json:
    """The JSON form of a dataclass, its fields in their order; tuples become lists, JSON values stay as they are."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        kind: dict[str, Json] = {KIND: getattr(value, KIND)} if hasattr(value, KIND) else {}
        return kind | {field.name: encode(getattr(value, field.name)) for field in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): encode(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [encode(item) for item in value]
    if value is None or isinstance(value, bool | int | float | str):
        return value
    raise TypeError(f"{type(value).__name__} has no JSON form")


def decode(cls: type[T], value: Json, where: str) -> T:
    """Builds the dataclass `cls` from `value`; `where` is the value's place, as the message of a UserError names it."""
    if not isinstance(value, dict):
        raise UserError(f"{where}: expected an object with the fields of {cls.__name__}, got {_shown(value)}")
    hints = typing.get_type_hints(cls)
    fields = {field.name: field for field in dataclasses.fields(typing.cast(Any, cls))}
    unknown = sorted(set(value) - set(fields) - ({KIND} if hasattr(cls, KIND) else set()))
    if unknown:
        raise UserError(f"{where}: unknown key {unknown[0]!r}; the keys are {', '.join(fields)}")
    required = [name for name, field in fields.items() if _is_required(field) and name not in value]
    if required:
        raise UserError(f"{where}: the key {required[0]!r} is missing")
    arguments = {
        name: _decode_value(hints[name], item, f"{where}.{name}") for name, item in value.items() if name in fields
    }
    return cls(**arguments)


def _is_required(field: dataclasses.Field[Any]) -> bool:
    return field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING


def _decode_value(hint: Any, value: Json, where: str) -> object:
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin in (types.UnionType, typing.Union):
        return _decode_union(arguments, value, where)
    if origin is typing.Literal:
        if value not in arguments:
            raise UserError(f"{where}: expected one of {', '.join(map(repr, arguments))}, got {_shown(value)}")
        return value
    if origin is tuple:
        if not isinstance(value, list):
            raise UserError(f"{where}: expected a list, got {_shown(value)}")
        return tuple(_decode_value(arguments[0], item, f"{where}[{index}]") for index, item in enumerate(value))
    if origin is not None and issubclass(origin, Mapping):
        if not isinstance(value, dict):
            raise UserError(f"{where}: expected an object, got {_shown(value)}")
        return {key: _decode_value(arguments[1], item, f"{where}.{key}") for key, item in value.items()}
    if dataclasses.is_dataclass(hint):
        return decode(typing.cast(type[Any], hint), value, where)
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise UserError(f"{where}: expected {hint.__name__}, got {_shown(value)}")
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{where}: expected a finite number, got {value}")
    return value


def _decode_union(members: tuple[Any, ...], value: Json, where: str) -> object:
    """A union is `Json` (the only one with a dict in it), or of dataclasses that carry a `kind`, or of plain types."""
    if any(typing.get_origin(member) is dict for member in members):
        return value
    if value is None and type(None) in members:
        return None
    classes = {getattr(member, KIND): member for member in members if hasattr(member, KIND)}
    if classes:
        kind = value.get(KIND) if isinstance(value, dict) else None
        if not isinstance(kind, str) or kind not in classes:
            raise UserError(
                f"{where}: the key {KIND!r} must be one of {', '.join(map(repr, classes))}, got {_shown(kind)}"
            )
        return decode(classes[kind], value, where)
    candidates = [member for member in members if member is not type(None)]
    if len(candidates) == 1:
        return _decode_value(candidates[0], value, where)
    if type(value) in candidates:
        return value
    raise UserError(f"{where}: expected {' or '.join(member.__name__ for member in candidates)}, got {_shown(value)}")


def _shown(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 60 else text[:57] + "…"
