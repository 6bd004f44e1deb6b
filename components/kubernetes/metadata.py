"""The metadata that every object of a stack carries."""

from collections.abc import Mapping
from dataclasses import dataclass

import pulumi_kubernetes as k8s

STACK_LABEL = "llm-serving/stack"
"""Whose object this is. Server-side apply makes it a guard: a second stack that claims the same name meets a conflict here."""

FIELD_MANAGER = "pulumi.com/patchFieldManager"
"""Server-side apply's field manager, one for a stack. The provider's default is a random one for each resource, so that a create
after a killed `up` would meet a conflict with itself."""


@dataclass(frozen=True, kw_only=True)
class Scope:
    """The stack and the namespace that an object belongs to."""

    stack: str
    namespace: str

    def metadata(
        self,
        name: str,
        *,
        labels: Mapping[str, str] | None = None,
        annotations: Mapping[str, str] | None = None,
        cluster_wide: bool = False,
    ) -> k8s.meta.v1.ObjectMetaArgs:
        return k8s.meta.v1.ObjectMetaArgs(
            name=name,
            namespace=None if cluster_wide else self.namespace,
            labels={
                "app.kubernetes.io/part-of": "llm-serving",
                "app.kubernetes.io/managed-by": "pulumi",
                STACK_LABEL: self.stack,
                **(labels or {}),
            },
            annotations={FIELD_MANAGER: f"llm-serving-{self.stack}", **(annotations or {})},
        )
