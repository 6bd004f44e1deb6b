"""What can go wrong between Pulumi and a cluster, each with a message for the user."""

import json
import re
from dataclasses import dataclass, field
from typing import Any

from localcluster.pulumi_resource_kubernetes.values import Object

_LITERAL = re.compile(r"'([^']*)'|\"([^\"]*)\"")


class ProviderError(Exception):
    """The message says what is wrong, with which object, and what to do."""


class UnreachableError(ProviderError):
    """The apiserver doesn't answer, or not to us."""

    def __init__(self, cluster: str, reason: str) -> None:
        super().__init__(
            f"the Kubernetes cluster can't be reached: {cluster}: {_short(reason)}. Start it, or correct the kubeconfig "
            "or context (kubernetes:kubeconfig, kubernetes:context, KUBECONFIG); nothing was changed"
        )


class NoSuchKindError(ProviderError):
    """The cluster serves no such kind."""

    def __init__(self, api_version: str, kind: str) -> None:
        super().__init__(
            f"the cluster doesn't know the kind {kind} of {api_version}: install what defines it "
            "(its CustomResourceDefinition) first, or correct apiVersion and kind"
        )


@dataclass(frozen=True)
class Cause:
    """One of several reasons that an apiserver gives: `conflict with "kubectl" …` at `.data.a`."""

    reason: str
    message: str
    path: str


@dataclass
class ApiError(ProviderError):
    """An answer that isn't 2xx."""

    status: int
    reason: str
    message: str
    causes: tuple[Cause, ...] = field(default=())
    about: str = ""  # the kind of the thing that is missing or refused, as the server names it: "namespaces"

    def __str__(self) -> str:
        return self.message or f"{self.status} {self.reason}"

    @classmethod
    def from_body(cls, status: int, reason: str, body: Any) -> "ApiError":
        """The error of a `Status` object; of the plain text where there is none."""
        content = body.decode(errors="replace") if isinstance(body, bytes) else str(body or "")
        try:
            parsed = json.loads(content)
        except ValueError:
            parsed = None
        if not isinstance(parsed, dict) or parsed.get("kind") != "Status":
            return cls(status, reason, content.strip() or f"{status} {reason}")
        details = parsed.get("details") or {}
        causes = tuple(
            Cause(entry.get("reason", ""), entry.get("message", ""), entry.get("field", ""))
            for entry in details.get("causes") or []
        )
        return cls(status, parsed.get("reason", reason), parsed.get("message", ""), causes, details.get("kind", ""))

    @property
    def not_found(self) -> bool:
        return self.status == 404

    @property
    def already_exists(self) -> bool:
        return self.reason == "AlreadyExists"

    @property
    def namespace_missing(self) -> bool:
        return self.not_found and self.about == "namespaces"


class NotReadyError(ProviderError):
    """The object is there, and isn't (or isn't yet) what was waited for: the state keeps it, with the reasons."""

    def __init__(self, message: str, live: Object, reasons: tuple[str, ...] = (), *, gone: bool = False) -> None:
        super().__init__(message)
        self.live = live
        self.reasons = reasons
        self.gone = gone  # the object was deleted while it was waited for


def _short(reason: str) -> str:
    """urllib3's nested messages, down to the one that says something."""
    text = " ".join(reason.split())
    if "[Errno" in text:
        return text[text.rindex(": ", 0, text.rindex("[Errno")) + 2 :].rstrip("'\")")
    inner = text.rpartition("(Caused by ")[2]
    quoted = [literal for pair in _LITERAL.findall(inner) for literal in pair if " " in literal] if "(" in inner else []
    return quoted[-1] if quoted else text
