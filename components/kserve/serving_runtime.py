"""A KServe ServingRuntime, or ClusterServingRuntime, of a recipe's Runtime.

Its name carries a hash of what it says, so that a changed runtime is a new one and what serves with the old is left alone.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.kserve.containers import resources, security_context
from components.kubernetes.metadata import Scope
from engine_jobs.recipe import Runtime, content_key

PROBE_PERIOD_SECONDS = 5


@dataclass(frozen=True, kw_only=True)
class ServingRuntimeArgs:
    scope: Scope
    runtime: Runtime


def runtime_name(runtime: Runtime) -> str:
    return f"{runtime.name}-{content_key(serving_runtime_spec(runtime))[:8]}"


def serving_runtime_spec(runtime: Runtime) -> dict[str, Any]:
    """The spec of serving.kserve.io/v1alpha1 ServingRuntime (KServe docs: reference/crd-api)."""
    probe = {"httpGet": {"path": runtime.ready_path, "port": runtime.ready_port or runtime.ports[0].number}}
    container: dict[str, Any] = {
        "name": "kserve-container",
        "image": runtime.image,
        "imagePullPolicy": "IfNotPresent",
        "args": list(runtime.command),
        "ports": [{"name": p.name, "containerPort": p.number, "protocol": "TCP"} for p in runtime.ports],
        "resources": resources(runtime.resources),
        "securityContext": security_context(),
        "readinessProbe": {**probe, "periodSeconds": PROBE_PERIOD_SECONDS, "timeoutSeconds": 5},
        "startupProbe": {
            **probe,
            "periodSeconds": 2,
            "timeoutSeconds": 5,
            "failureThreshold": max(1, runtime.start_timeout_seconds // 2),
        },
    }
    spec: dict[str, Any] = {
        "annotations": {
            "prometheus.kserve.io/path": runtime.metrics_path,
            "prometheus.kserve.io/port": str(runtime.metrics_port),
        },
        "supportedModelFormats": [{"name": runtime.model_format, "version": runtime.model_format_version}],
        "protocolVersions": list(runtime.protocol_versions),
        "containers": [container],
    }
    if runtime.env:
        container["env"] = [{"name": key, "value": value} for key, value in runtime.env.items()]
    if runtime.shared_memory:
        container["volumeMounts"] = [{"name": "shared-memory", "mountPath": "/dev/shm"}]
        memory = {"medium": "Memory", "sizeLimit": runtime.shared_memory}
        spec["volumes"] = [{"name": "shared-memory", "emptyDir": memory}]
    return spec


class ServingRuntime(pulumi.ComponentResource):
    """The runtime; `runtime_name` is what an InferenceService names."""

    def __init__(
        self,
        name: str,
        args: ServingRuntimeArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:kserve:ServingRuntime", name, None, opts)
        k8s.apiextensions.CustomResource(
            f"{name}-runtime",
            api_version="serving.kserve.io/v1alpha1",
            kind="ClusterServingRuntime" if args.runtime.cluster_wide else "ServingRuntime",
            metadata=args.scope.metadata(runtime_name(args.runtime), cluster_wide=args.runtime.cluster_wide),
            spec=serving_runtime_spec(args.runtime),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        self.register_outputs({"runtime": runtime_name(args.runtime)})
