"""What the user asks to wait for: the annotation `pulumi.com/waitFor`, for any kind."""

import json
from collections.abc import Callable, Sequence

from localcluster.pulumi_resource_kubernetes.json_path import ExpressionError, PathExpression, parse, rendered
from localcluster.pulumi_resource_kubernetes.objects import describe, dig
from localcluster.pulumi_resource_kubernetes.progress import Progress
from localcluster.pulumi_resource_kubernetes.values import Object


def _stale(live: Object, observed: object) -> bool:
    generation = dig(live, "metadata", "generation")
    return isinstance(observed, int) and isinstance(generation, int) and observed < generation


def condition_progress(live: Object, name: str, wanted: str) -> Progress:
    """Whether `.status.conditions` has a condition with the wanted status, of the present generation."""
    where = describe(live)
    for condition in dig(live, "status", "conditions") or []:
        if str(condition.get("type", "")).lower() != name.lower():
            continue
        observed = condition.get("observedGeneration", dig(live, "status", "observedGeneration"))
        if _stale(live, observed):
            return Progress(
                message=f"Waiting for the status of generation {dig(live, 'metadata', 'generation')} of {where}"
            )
        status = str(condition.get("status", ""))
        if status.lower() == wanted.lower():
            return Progress(ready=True)
        detail = ": ".join(str(condition[key]) for key in ("reason", "message") if condition.get(key))
        found = f"{name} is {status}" + (f" ({detail})" if detail else "")
        return Progress(message=f"Waiting for {name}={wanted} of {where}: {found}", reasons=(found,))
    return Progress(message=f"Waiting for {name}={wanted} of {where}: it has no such condition yet")


def path_progress(live: Object, expression: PathExpression) -> Progress:
    """Whether a field is there, or has the wanted value."""
    if _stale(live, dig(live, "status", "observedGeneration")):
        return Progress(
            message=f"Waiting for the status of generation {dig(live, 'metadata', 'generation')} of {describe(live)}"
        )
    try:
        if expression.matches(live):
            return Progress(ready=True)
    except ExpressionError as error:
        return Progress(failed=True, reasons=(str(error),))
    found = expression.select(live)
    seen = f"found {rendered(found[0])!r}" if found else "there is nothing yet"
    return Progress(message=f"Waiting for {expression} of {describe(live)}: {seen}")


class AllOf:
    """Every expression of a waitFor annotation. Raises ExpressionError at once for one that can't be understood."""

    def __init__(self, annotation: str) -> None:
        self._checks = [_check(expression) for expression in _expressions(annotation)]

    def look(self, live: Object) -> Progress:
        """The first one that isn't satisfied."""
        for check in self._checks:
            progress = check(live)
            if not progress.ready:
                return progress
        return Progress(ready=True)


def _expressions(annotation: str) -> Sequence[str]:
    """One expression, or a JSON list of several."""
    try:
        listed = json.loads(annotation)
    except ValueError:
        return [annotation]
    if not isinstance(listed, list) or not listed or not all(isinstance(entry, str) for entry in listed):
        raise ExpressionError(
            f"pulumi.com/waitFor: {annotation!r} should be an expression or a JSON list of expressions"
        )
    return listed


def _check(expression: str) -> Callable[[Object], Progress]:
    if expression.startswith("jsonpath="):
        parsed = parse(expression.removeprefix("jsonpath="))
        return lambda live: path_progress(live, parsed)
    if expression.startswith("condition="):
        name, _, wanted = expression.removeprefix("condition=").partition("=")
        return lambda live: condition_progress(live, name, wanted or "True")
    raise ExpressionError(f'pulumi.com/waitFor: expected "jsonpath=…" or "condition=…", not {expression!r}')
