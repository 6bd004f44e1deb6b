"""Kubernetes quantities that mean the same: `0.5` and `500m`, `1Gi` and `1024Mi`."""

import re
from decimal import Decimal

from localcluster.pulumi_resource_kubernetes.values import Json

_FORM = re.compile(r"([+-]?(?:\d+\.?\d*|\.\d+))(?:(Ki|Mi|Gi|Ti|Pi|Ei|n|u|m|k|M|G|T|P|E)|[eE]([+-]?\d+))?")
_SUFFIXES = {
    **{suffix: Decimal(1024) ** power for power, suffix in enumerate(("Ki", "Mi", "Gi", "Ti", "Pi", "Ei"), start=1)},
    **{suffix: Decimal(1000) ** power for power, suffix in enumerate(("k", "M", "G", "T", "P", "E"), start=1)},
    **{suffix: Decimal(1000) ** -power for power, suffix in enumerate(("m", "u", "n"), start=1)},
}
_HOLDERS = frozenset({"requests", "limits", "capacity", "hard", "default", "defaultRequest", "max", "min", "overhead"})
_FIELDS = frozenset({"sizeLimit", "averageValue", "divisor"})


def is_quantity(path: tuple[str | int, ...]) -> bool:
    """Whether a built-in kind keeps a quantity at this path."""
    keys = [key for key in path if isinstance(key, str)]
    return bool(keys) and (keys[-1] in _FIELDS or (len(keys) > 1 and keys[-2] in _HOLDERS))


def parse(value: Json) -> Decimal | None:
    """The number; None for what is no quantity."""
    match = (
        _FORM.fullmatch(str(value)) if isinstance(value, (str, int, float)) and not isinstance(value, bool) else None
    )
    if match is None:
        return None
    number, suffix, exponent = match.groups()
    return Decimal(number) * (_SUFFIXES[suffix] if suffix else Decimal(10) ** int(exponent or 0))
