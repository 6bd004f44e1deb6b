"""What pods say when something is wrong: conditions, containers that wait or ended, events, the last lines of a log."""

from dataclasses import dataclass, field

from localcluster.pulumi_resource_kubernetes.cluster import Cluster
from localcluster.pulumi_resource_kubernetes.errors import ProviderError
from localcluster.pulumi_resource_kubernetes.objects import dig, name_of, namespace_of
from localcluster.pulumi_resource_kubernetes.values import Object

LOG_LINES = 20
# Waiting for these is a pod's ordinary way to start.
_ORDINARY = frozenset({"", "ContainerCreating", "PodInitializing"})
# What these events tell is told already, by the Job's condition and the containers' states.
_KNOWN_EVENTS = frozenset({"BackOff", "BackoffLimitExceeded", "DeadlineExceeded"})
# The kubelet's answer (with status 200) for a container that the runtime has removed.
_LOG_IS_GONE = "unable to retrieve container logs"
_INIT_STATUSES = "initContainerStatuses"
_STATUSES = "containerStatuses"


@dataclass(frozen=True, kw_only=True)
class ContainerFailure:
    """A container that ended with an error."""

    pod: str
    container: str
    exit_code: int
    reason: str  # Error, OOMKilled, …
    message: str  # the termination message: with FallbackToLogsOnError the end of its log
    restart: int  # which of its runs; the log of an earlier one is asked for as `previous`
    previous: bool

    @property
    def key(self) -> tuple[str, str, int]:
        """One for each run of a container."""
        return self.pod, self.container, self.restart

    def describe(self, log: str) -> str:
        """What failed and what it said last."""
        head = f"container {self.container} of pod {self.pod} failed: exit code {self.exit_code}"
        head += f" ({self.reason})" if self.reason not in ("", "Error") else ""
        said = log.strip() or self.message.strip()
        return f"{head}; its last lines:\n{_indented(said)}" if said else f"{head}; it wrote nothing"


def _indented(text: str) -> str:
    return "\n".join(f"    {line}" for line in text.splitlines()[-LOG_LINES:])


def container_failures(pod: Object) -> list[ContainerFailure]:
    """The runs of a pod's containers that ended with an error, init containers first."""
    found = []
    for statuses in (_INIT_STATUSES, _STATUSES):
        for status in dig(pod, "status", statuses) or []:
            for state, previous in (("lastState", True), ("state", False)):
                ended = dig(status, state, "terminated")
                if ended is None or not ended.get("exitCode"):
                    continue
                found.append(
                    ContainerFailure(
                        pod=name_of(pod),
                        container=status["name"],
                        exit_code=ended["exitCode"],
                        reason=ended.get("reason", ""),
                        message=ended.get("message", ""),
                        restart=status.get("restartCount", 0) - (1 if previous else 0),
                        previous=previous,
                    )
                )
    return found


def pod_trouble(pod: Object) -> list[str]:
    """Why a pod doesn't run (or isn't ready) yet; nothing for the ordinary steps of a start."""
    name = name_of(pod)
    if dig(pod, "status", "phase") == "Failed" and dig(pod, "status", "message"):
        return [f"pod {name}: {dig(pod, 'status', 'message')}"]
    trouble = [
        f"pod {name} isn't scheduled: {condition['message']}"
        for condition in dig(pod, "status", "conditions") or []
        if condition.get("type") == "PodScheduled" and condition.get("status") == "False" and condition.get("message")
    ]
    for statuses in (_INIT_STATUSES, _STATUSES):
        for status in dig(pod, "status", statuses) or []:
            waiting = dig(status, "state", "waiting") or {}
            if waiting.get("reason", "") not in _ORDINARY:
                detail = waiting.get("message") or "no further message"
                trouble.append(f"container {status['name']} of pod {name}: {waiting['reason']}: {detail}")
    return trouble


def selector_of(workload: Object) -> str:
    """The label selector of a workload's pods, as a query."""
    selector = dig(workload, "spec", "selector") or {}
    if "matchLabels" not in selector and "matchExpressions" not in selector:
        return ",".join(f"{key}={value}" for key, value in selector.items())
    terms = [f"{key}={value}" for key, value in (selector.get("matchLabels") or {}).items()]
    for expression in selector.get("matchExpressions") or []:
        key, values = expression["key"], ",".join(expression.get("values") or [])
        forms = {"In": f"{key} in ({values})", "NotIn": f"{key} notin ({values})", "Exists": key}
        terms.append(forms.get(expression["operator"], f"!{key}"))
    return ",".join(terms)


def warning_events(cluster: Cluster, namespace: str, uids: set[str]) -> list[str]:
    """The Warning events about objects, oldest first: the only place where a volume that can't be mounted shows."""
    try:
        events = cluster.list("v1", "Event", namespace, fieldSelector="type=Warning")
    except ProviderError:
        # Events only explain; whoever may not read them waits as well without.
        return []
    mine = [
        event
        for event in events
        if dig(event, "involvedObject", "uid") in uids and event.get("reason") not in _KNOWN_EVENTS
    ]
    mine.sort(key=lambda event: str(event.get("lastTimestamp") or event.get("eventTime") or ""))
    texts = [
        f"{dig(event, 'involvedObject', 'kind')} {dig(event, 'involvedObject', 'name')}: {event.get('reason')}: {event.get('message')}"
        for event in mine
    ]
    return list(dict.fromkeys(texts))


@dataclass
class PodWatch:
    """The pods of one workload over time. Failures are kept: a controller may delete the pod before the end is known."""

    cluster: Cluster
    selector: str
    _failures: dict[tuple[str, str, int], str] = field(default_factory=dict)
    _trouble: list[str] = field(default_factory=list)
    _uids: set[str] = field(default_factory=set)

    def look(self, owner: Object) -> list[str]:
        """What is wrong with the pods now."""
        pods = self.cluster.list("v1", "Pod", namespace_of(owner), labelSelector=self.selector)
        self._trouble = []
        for pod in pods:
            self._uids.add(str(dig(pod, "metadata", "uid")))
            self._trouble += pod_trouble(pod)
            for failure in container_failures(pod):
                if failure.key not in self._failures:
                    self._failures[failure.key] = failure.describe(self._log(pod, failure))
        return self._trouble

    def reasons(self, owner: Object) -> tuple[str, ...]:
        """Everything known about why it fails: the last failed run of each container, present trouble, events."""
        last: dict[tuple[str, str], str] = {}
        for (pod, container, _), text in self._failures.items():
            last[pod, container] = text
        events = warning_events(self.cluster, namespace_of(owner), {*self._uids, str(dig(owner, "metadata", "uid"))})
        return (*list(last.values())[-3:], *self._trouble, *events[-5:])

    def _log(self, pod: Object, failure: ContainerFailure) -> str:
        try:
            log = self.cluster.pod_log(
                namespace_of(pod), failure.pod, failure.container, lines=LOG_LINES, previous=failure.previous
            )
        except ProviderError:
            log = _LOG_IS_GONE
        # The log may be gone with its container: the termination message is what is left.
        return "" if log.startswith(_LOG_IS_GONE) else log
