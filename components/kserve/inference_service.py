"""A KServe InferenceService in Standard mode: a predictor of a runtime's format, and the transformer before it.

It is named by what it serves: another artifact or image makes another InferenceService beside the old one, which keeps serving until
the new one has passed its smoke test. A change of anything else (resources, say) is made in place.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.kserve.containers import resources, security_context
from components.kserve.serving_runtime import runtime_name
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import predictor_account
from engine_jobs.recipe import Plan, content_key

API_VERSION = "serving.kserve.io/v1beta1"
GPU_TOLERATION = {"key": "nvidia.com/gpu", "operator": "Exists", "effect": "NoSchedule"}
"""GKE taints its GPU nodes so."""

REVISION_LABEL = "llm-serving/revision"


@dataclass(frozen=True, kw_only=True)
class InferenceServiceArgs:
    """`model` is the name in the stack file, `store` that of the store that holds its artifact."""

    scope: Scope
    model: str
    plan: Plan
    store: str


def service_name(model: str, plan: Plan) -> str:
    transformer = plan.service.transformer
    served = [plan.build.artifact.key, plan.runtime.image, transformer.image if transformer else None]
    return f"{model}-{content_key(served)[:8]}"


def inference_service_spec(plan: Plan, store: str) -> dict[str, Any]:
    """The spec of serving.kserve.io/v1beta1 InferenceService (KServe docs: reference/crd-api)."""
    service, runtime = plan.service, plan.runtime
    model = {
        "modelFormat": {"name": runtime.model_format, "version": runtime.model_format_version},
        "runtime": runtime_name(runtime),
        "storageUri": service.storage_uri,
        "resources": resources(service.resources),
    }
    if service.runtime_version:
        model["runtimeVersion"] = service.runtime_version
    replicas = {"minReplicas": 1, "maxReplicas": 1}
    predictor = {"serviceAccountName": predictor_account(store), **replicas, "model": model}
    if service.node_selector:
        predictor["nodeSelector"] = dict(service.node_selector)
    if service.resources.gpus:
        predictor["tolerations"] = [GPU_TOLERATION]
    spec: dict[str, Any] = {"predictor": predictor}
    if service.transformer:
        transformer = service.transformer
        spec["transformer"] = {
            "serviceAccountName": predictor_account(store),
            **replicas,
            "containers": [
                {
                    "name": "kserve-container",
                    "image": transformer.image,
                    "imagePullPolicy": "IfNotPresent",
                    "command": list(transformer.command),
                    "args": list(transformer.args),
                    "env": [{"name": "STORAGE_URI", "value": transformer.storage_uri}],
                    "resources": resources(transformer.resources),
                    "securityContext": security_context(),
                }
            ],
        }
    return spec


def revision(plan: Plan) -> str:
    """A label's worth of hash over all that decides how the service's pods look."""
    return content_key([inference_service_spec(plan, ""), repr(plan.runtime)])[:16]


def revision_labels(plan: Plan) -> Mapping[str, str]:
    """KServe copies an InferenceService's labels to its pods: by this one a smoke test knows the new pods from the old."""
    return {REVISION_LABEL: revision(plan)}


class InferenceService(pulumi.ComponentResource):
    """The InferenceService, awaited until KServe calls it Ready."""

    def __init__(
        self,
        name: str,
        args: InferenceServiceArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        hooks: pulumi.ResourceHookBinding | None = None,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:kserve:InferenceService", name, None, opts)
        timeout = f"{args.plan.runtime.start_timeout_seconds + 600}s"
        self.resource = k8s.apiextensions.CustomResource(
            f"{name}-service",
            api_version=API_VERSION,
            kind="InferenceService",
            metadata=args.scope.metadata(
                service_name(args.model, args.plan),
                labels={"llm-serving/model": args.model, **revision_labels(args.plan)},
                annotations={
                    "serving.kserve.io/deploymentMode": "Standard",
                    "pulumi.com/waitFor": "condition=Ready",
                },
            ),
            spec=inference_service_spec(args.plan, args.store),
            opts=pulumi.ResourceOptions(
                parent=self,
                depends_on=list(after),
                hooks=hooks,
                custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout, delete="5m"),
            ),
        )
        self.register_outputs({"service": service_name(args.model, args.plan)})
