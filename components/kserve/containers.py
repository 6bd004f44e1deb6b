"""Container parts of KServe's custom resources, which are plain JSON: pulumi-kubernetes has no types for them."""

from typing import Any

from engine_jobs.recipe import Resources


def resources(wanted: Resources) -> dict[str, Any]:
    return {"requests": wanted.requests, "limits": wanted.limits}


def security_context() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
