"""Names that the user didn't choose: `<logical name>-<8 random hex digits>`, marked by an annotation."""

import hashlib
import secrets
from dataclasses import dataclass
from enum import Enum

from localcluster.pulumi_resource_kubernetes.objects import (
    AUTONAMED,
    annotate,
    annotated_true,
    dig,
    metadata_of,
    name_of,
)
from localcluster.pulumi_resource_kubernetes.values import Object, Unknown

_DIGITS = 8


class NamingError(Exception):
    """An object that has no name and may not be given one."""


class AutonamingMode(Enum):
    """What the project's `pulumi:autonaming` configuration asks of a provider (CheckRequest.AutonamingOptions.Mode)."""

    PROPOSE = 0
    ENFORCE = 1
    DISABLE = 2


@dataclass(frozen=True, kw_only=True)
class Autonaming:
    """The engine's autonaming options for one resource."""

    mode: AutonamingMode
    proposed: str


def is_named(obj: Object) -> bool:
    """Whether the user gave a name, known or not known yet."""
    return isinstance(dig(obj, "metadata", "name"), Unknown) or bool(name_of(obj))


def is_autonamed(obj: Object) -> bool:
    return annotated_true(obj, AUTONAMED)


def random_suffix(seed: bytes) -> str:
    """8 hex digits. The engine gives the same seed for the same step, so that preview and update agree on the name."""
    return hashlib.sha256(seed).hexdigest()[:_DIGITS] if seed else secrets.token_hex(_DIGITS // 2)


def assign_name(obj: Object, old: Object, logical_name: str, seed: bytes, autonaming: Autonaming | None) -> None:
    """Names an unnamed object in place: as it was named before, else anew. Raises NamingError."""
    if is_named(obj):
        return
    if dig(obj, "metadata", "generateName"):
        raise NamingError(
            "metadata.generateName isn't supported with server-side apply: leave the name out (a random suffix is added) "
            "or set metadata.name"
        )
    if old and is_autonamed(old):
        name = name_of(old)
    elif autonaming is None:
        name = f"{logical_name}-{random_suffix(seed)}"
    elif autonaming.mode is AutonamingMode.DISABLE:
        raise NamingError("autonaming is disabled (pulumi:autonaming): set metadata.name")
    else:
        name = autonaming.proposed
    metadata_of(obj)["name"] = name
    annotate(obj, AUTONAMED, "true")
