"""The provider's operations without an engine: who listens, and how resources are called."""

from typing import Any

from localcluster.pulumi_resource_kubernetes.engine import Engine

NAMESPACE = "/api/v1/namespaces/default"


class Recorder(Engine):
    """Keeps what the user would be shown."""

    def __init__(self) -> None:
        super().__init__("")
        self.shown: list[str] = []

    def status(self, urn: str, message: str) -> None:
        self.shown.append(message)

    def warning(self, urn: str, message: str) -> None:
        self.shown.append(f"warning: {message}")


def urn_of(obj: dict[str, Any]) -> str:
    """The URN of a resource that is such an object."""
    group, _, version = obj["apiVersion"].rpartition("/")
    return f"urn:pulumi:test::trial::kubernetes:{group or 'core'}/{version}:{obj['kind']}::thing"
