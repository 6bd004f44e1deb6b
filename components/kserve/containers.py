"""Container parts of KServe's custom resources, which are plain JSON: pulumi-kubernetes has no types for them."""

from typing import Any

from engine_jobs.recipe import Resources


def resources(wanted: Resources) -> dict[str, Any]:
    gpus = {"nvidia.com/gpu": str(wanted.gpus)} if wanted.gpus else {}
    limits = {"memory": wanted.memory, **gpus}
    if wanted.cpu_limit:
        limits["cpu"] = wanted.cpu_limit
    return {"requests": {"cpu": wanted.cpu, "memory": wanted.memory, **gpus}, "limits": limits}


def security_context() -> dict[str, Any]:
    return {
        "allowPrivilegeEscalation": False,
        "capabilities": {"drop": ["ALL"]},
        "runAsNonRoot": True,
        "runAsUser": 1000,
        "seccompProfile": {"type": "RuntimeDefault"},
    }
