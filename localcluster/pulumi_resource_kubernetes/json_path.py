"""The JSONPath that `pulumi.com/waitFor` speaks: `{.status.conditions[?(@.type=="Ready")].status}=True`."""

import re
from dataclasses import dataclass

from localcluster.pulumi_resource_kubernetes.values import Json, Object

_STEP = re.compile(
    r"""\.(?P<key>[A-Za-z_$][\w-]*(?:\\\.[\w-]+)*)"""
    r"""|\.(?P<any_key>\*)"""
    r"""|\[(?P<index>-?\d+)\]"""
    r"""|\[(?P<any>\*)\]"""
    r"""|\[(?P<quote>['"])(?P<quoted>.*?)(?P=quote)\]"""
    r"""|\[\?\(\s*@\.(?P<field>[\w.-]+)\s*(?P<operator>==|!=)\s*(?P<q2>['"])(?P<value>.*?)(?P=q2)\s*\)\]"""
)


class ExpressionError(ValueError):
    """A waitFor expression that can't be understood."""


@dataclass(frozen=True)
class PathExpression:
    """A path, and the value that it must have; None: any."""

    path: str
    steps: tuple[re.Match[str], ...]
    value: str | None

    def __str__(self) -> str:
        return self.path if self.value is None else f"{self.path}={self.value}"

    def select(self, obj: Object) -> list[Json]:
        """What the path leads to."""
        found: list[Json] = [obj]
        for step in self.steps:
            found = [result for value in found for result in _follow(value, step)]
        return found

    def matches(self, obj: Object) -> bool:
        """Whether the object is as waited for. Raises ExpressionError for a comparison with a list or a map."""
        found = self.select(obj)
        if self.value is None or not found:
            return bool(found)
        if isinstance(found[0], (dict, list)):
            raise ExpressionError(f"{self.path} is a list or a map: it can't be compared with {self.value!r}")
        return rendered(found[0]) == self.value


def rendered(value: Json) -> str:
    """A value as kubectl prints it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return "<nil>" if value is None else str(value)


def _follow(value: Json, step: re.Match[str]) -> list[Json]:
    key = step["quoted"] if step["quoted"] is not None else (step["key"] or "").replace("\\.", ".")
    if key:
        return [value[key]] if isinstance(value, dict) and key in value else []
    entries = list(value.values()) if isinstance(value, dict) else value if isinstance(value, list) else []
    if step["any"] or step["any_key"]:
        return entries
    if step["index"] is not None:
        index = int(step["index"])
        return [entries[index]] if isinstance(value, list) and -len(entries) <= index < len(entries) else []
    return [entry for entry in entries if _satisfies(entry, step)]


def _satisfies(entry: Json, step: re.Match[str]) -> bool:
    for key in step["field"].split("."):
        entry = entry.get(key) if isinstance(entry, dict) else None
    return (rendered(entry) == step["value"]) == (step["operator"] == "==")


def parse(expression: str) -> PathExpression:
    """The expression after `jsonpath=`: `{PATH}` or `{PATH}=VALUE`. Raises ExpressionError."""
    match = re.fullmatch(r"(\{\s*(.*?)\s*\})(?:=(.+))?", expression, re.DOTALL)
    if match is None:
        raise ExpressionError(
            f"pulumi.com/waitFor: {expression!r} should be {{.path}} or {{.path}}=value, without shell quotes"
        )
    whole, path, value = match.groups()
    path = path.removeprefix("$")
    steps, position = [], 0
    while position < len(path):
        step = _STEP.match(path, position)
        if step is None:
            raise ExpressionError(f"pulumi.com/waitFor: can't read {path[position:]!r} in {whole}")
        steps.append(step)
        position = step.end()
    if not steps:
        raise ExpressionError(f"pulumi.com/waitFor: {whole} names no field")
    return PathExpression(whole, tuple(steps), value)
