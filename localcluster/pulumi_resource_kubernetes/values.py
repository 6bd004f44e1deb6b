"""Pulumi's property values on the wire (google.protobuf.Struct) as plain Python, with secrets and unknowns kept.

The signatures are those of Pulumi's SDKs (sdk/python/lib/pulumi/runtime/rpc.py). Kubernetes knows no floating-point
counts: a number without a fraction becomes an int.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

from google.protobuf import struct_pb2

_SIGNATURE_KEY = "4dabf18193072939515e22adb298388d"
_SECRET_SIGNATURE = "1b47061264138c4ac30d75fd1eb44270"
_OUTPUT_SIGNATURE = "d0e6a833031e9bbcd3f4e8bde6ca49a4"
_UNKNOWNS = frozenset(
    {
        "04da6b54-80e4-46f7-96ec-b56ff0331ba9",  # a string, and what the SDKs send for everything else
        "1c4a061d-8072-4f0a-a4cb-0ff528b18fe7",  # a bool
        "3eeb2bf0-c639-47a8-9e75-3b44932eb421",  # a number
        "6a19a0b0-7e62-4c92-b797-7f8e31da9cc2",  # a list
        "030794c1-ac77-496b-92df-f27374a8bd58",  # an asset
        "e48ece36-62e2-4504-bad9-02848725956a",  # an archive
        "dd056dcd-154b-4c76-9bd3-c8f88648b5ff",  # an object
    }
)
_UNKNOWN_ON_THE_WIRE = "04da6b54-80e4-46f7-96ec-b56ff0331ba9"

Json: TypeAlias = Any
Object: TypeAlias = dict[str, Any]


class Unknown:
    """A value that is known only after another resource is made."""

    def __repr__(self) -> str:
        return "<unknown>"


UNKNOWN: Final = Unknown()


@dataclass(frozen=True)
class Secret:
    """A value that the state must keep encrypted. It prints as a placeholder."""

    value: Json

    def __repr__(self) -> str:
        return "<secret>"


def from_struct(struct: struct_pb2.Struct) -> Object:
    """A Struct's fields; {} for an unset one."""
    return {key: _from_value(value) for key, value in struct.fields.items()}


def _from_value(value: struct_pb2.Value) -> Json:
    kind = value.WhichOneof("kind")
    if kind == "struct_value":
        return _from_signed(from_struct(value.struct_value))
    if kind == "list_value":
        return [_from_value(entry) for entry in value.list_value.values]
    if kind == "string_value":
        return UNKNOWN if value.string_value in _UNKNOWNS else value.string_value
    if kind == "number_value":
        number = value.number_value
        return int(number) if number.is_integer() else number
    return value.bool_value if kind == "bool_value" else None


def _from_signed(fields: Object) -> Json:
    signature = fields.get(_SIGNATURE_KEY)
    if signature == _SECRET_SIGNATURE:
        return Secret(fields.get("value"))
    if signature == _OUTPUT_SIGNATURE:
        inner = fields.get("value", UNKNOWN)
        return Secret(inner) if fields.get("secret") else inner
    return fields


def to_struct(fields: Mapping[str, Json]) -> struct_pb2.Struct:
    """The Struct of a property map."""
    struct = struct_pb2.Struct()
    for key, value in fields.items():
        struct.fields[key].CopyFrom(_to_value(value))
    return struct


def _to_value(value: Json) -> struct_pb2.Value:
    if isinstance(value, Secret):
        return _to_value({_SIGNATURE_KEY: _SECRET_SIGNATURE, "value": value.value})
    if isinstance(value, Unknown):
        return struct_pb2.Value(string_value=_UNKNOWN_ON_THE_WIRE)
    if isinstance(value, Mapping):
        return struct_pb2.Value(struct_value=to_struct(value))
    if isinstance(value, (list, tuple)):
        return struct_pb2.Value(list_value=struct_pb2.ListValue(values=[_to_value(entry) for entry in value]))
    if value is None:
        return struct_pb2.Value(null_value=struct_pb2.NULL_VALUE)
    if isinstance(value, bool):
        return struct_pb2.Value(bool_value=value)
    if isinstance(value, (int, float)):
        return struct_pb2.Value(number_value=value)
    return struct_pb2.Value(string_value=str(value))


def reveal(value: Json) -> Json:
    """The value with every Secret replaced by what it hides; a deep copy."""
    if isinstance(value, Secret):
        return reveal(value.value)
    if isinstance(value, Mapping):
        return {key: reveal(entry) for key, entry in value.items()}
    if isinstance(value, (list, tuple)):
        return [reveal(entry) for entry in value]
    return value


def _any(value: Json, found: Callable[[Json], bool]) -> bool:
    if found(value):
        return True
    if isinstance(value, Secret):
        return _any(value.value, found)
    if isinstance(value, Mapping):
        return any(_any(entry, found) for entry in value.values())
    return isinstance(value, (list, tuple)) and any(_any(entry, found) for entry in value)


def has_unknown(value: Json) -> bool:
    """Whether anything in it is known only later."""
    return _any(value, lambda entry: isinstance(entry, Unknown))


def has_secret(value: Json) -> bool:
    """Whether anything in it is a secret."""
    return _any(value, lambda entry: isinstance(entry, Secret))
