"""How waiting goes: a condition looks at the live object, and says ready, not yet, or never."""

import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.errors import ApiError, NotReadyError, UnreachableError
from localcluster.pulumi_resource_kubernetes.objects import TIMEOUT_SECONDS, annotation, describe
from localcluster.pulumi_resource_kubernetes.values import Object

DEFAULT_TIMEOUT_S = 600.0
# Quick at first, for what is ready at once; then once a second, for what takes minutes or hours.
_FIRST_PAUSE_S = 0.1
_LONGEST_PAUSE_S = 1.0


@dataclass(frozen=True, kw_only=True)
class Progress:
    """What a condition sees now."""

    ready: bool = False
    message: str = ""  # what is waited for
    failed: bool = False  # it won't become ready any more
    reasons: tuple[str, ...] = ()  # what is wrong
    explain: Callable[[], tuple[str, ...]] = tuple  # more of that, looked up only when it failed or the time is over

    def all_reasons(self) -> tuple[str, ...]:
        """Why it isn't ready, each reason once."""
        return tuple(dict.fromkeys((*self.reasons, *self.explain())))


class Condition(Protocol):
    """Looks at an object, and at what belongs to it."""

    def look(self, live: Object) -> Progress: ...


@dataclass(frozen=True, kw_only=True)
class Patience:
    """How long, and who may end it sooner."""

    timeout_s: float
    cancelled: threading.Event
    report: Callable[[str], None]


def timeout_of(inputs: Object, custom_timeout_s: float) -> float:
    """Seconds: the resource's customTimeouts, else its annotation, else 10 minutes."""
    if custom_timeout_s > 0:
        return custom_timeout_s
    annotated = annotation(inputs, TIMEOUT_SECONDS)
    return float(annotated) if annotated.isdigit() and int(annotated) > 0 else DEFAULT_TIMEOUT_S


def wait_until(condition: Condition, live: Object, cluster: Cluster, patience: Patience) -> Object:
    """The object once the condition says ready. Raises NotReadyError: failed, gone, cancelled, or out of time.

    An apiserver that is away for a moment (a restart) is waited for as well.
    """
    deadline = time.monotonic() + patience.timeout_s
    pause = _FIRST_PAUSE_S
    shown = ""
    while True:
        try:
            progress = condition.look(live)
        except (UnreachableError, ApiError) as error:
            progress = Progress(message=f"asking again: {error}", reasons=(str(error),))
        if progress.ready:
            patience.report("")
            return live
        if progress.failed:
            raise NotReadyError(f"{describe(live)} failed", live, progress.all_reasons())
        if progress.message != shown:
            patience.report(progress.message)
            shown = progress.message
        remaining = deadline - time.monotonic()
        if remaining <= 0:
            last = (f"last seen: {progress.message}",) if progress.message else ()
            message = f"{describe(live)} wasn't ready within {patience.timeout_s:g} s"
            raise NotReadyError(message, live, (*progress.all_reasons(), *last))
        if patience.cancelled.wait(min(pause, remaining)):
            raise NotReadyError(f"waiting for {describe(live)} was cancelled", live, progress.all_reasons())
        pause = min(pause * 2, _LONGEST_PAUSE_S)
        live = _refreshed(live, cluster)


def _refreshed(live: Object, cluster: Cluster) -> Object:
    try:
        return cluster.get(live)
    except UnreachableError:
        return live
    except ApiError as error:
        if error.not_found:
            raise NotReadyError(f"{describe(live)} was deleted while it was waited for", live, gone=True) from None
        return live
