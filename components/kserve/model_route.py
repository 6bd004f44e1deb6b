"""A model's own address: an HTTPRoute whose host stays the same while InferenceServices come and go behind it.

It is moved to a new InferenceService only after that one's smoke test; KServe's own routes, one for each InferenceService, are what
the smoke test asks.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import pulumi
import pulumi_kubernetes as k8s

from components.kserve.inference_service import service_name
from components.kubernetes.metadata import Scope
from engine_jobs.recipe import Plan

GRPC_PATH = "/inference.GRPCInferenceService"
GRPC_PORT = 9000
HTTP_PORT = 80


@dataclass(frozen=True, kw_only=True)
class GatewayAddress:
    """The Gateway object, KServe's ingress domain, and where the gateway answers: `address` for a user, `cluster_address` for a
    pod (both http(s)://host[:port])."""

    name: str
    namespace: str
    domain: str
    address: str
    cluster_address: str


@dataclass(frozen=True, kw_only=True)
class ModelRouteArgs:
    """`plan` says which InferenceService is behind the host."""

    scope: Scope
    model: str
    plan: Plan
    gateway: GatewayAddress


def route_host(scope: Scope, model: str, domain: str) -> str:
    return f"{model}-{scope.namespace}.{domain}"


def http_route_spec(args: ModelRouteArgs) -> dict[str, Any]:
    """The spec of gateway.networking.k8s.io/v1 HTTPRoute: gRPC to the predictor, all else to the transformer, if there is one."""
    service = service_name(args.model, args.plan)
    front = "transformer" if args.plan.service.transformer else "predictor"
    return {
        "parentRefs": [
            {
                "group": "gateway.networking.k8s.io",
                "kind": "Gateway",
                "name": args.gateway.name,
                "namespace": args.gateway.namespace,
            }
        ],
        "hostnames": [route_host(args.scope, args.model, args.gateway.domain)],
        "rules": [
            _rule(GRPC_PATH, f"{service}-predictor", GRPC_PORT),
            _rule("/", f"{service}-{front}", HTTP_PORT),
        ],
    }


def _rule(path: str, service: str, port: int) -> dict[str, Any]:
    backend = {"group": "", "kind": "Service", "name": service, "port": port, "weight": 1}
    return {"matches": [{"path": {"type": "PathPrefix", "value": path}}], "backendRefs": [backend]}


class ModelRoute(pulumi.ComponentResource):
    """The HTTPRoute of a model."""

    def __init__(
        self,
        name: str,
        args: ModelRouteArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:kserve:ModelRoute", name, None, opts)
        k8s.apiextensions.CustomResource(
            f"{name}-route",
            api_version="gateway.networking.k8s.io/v1",
            kind="HTTPRoute",
            metadata=args.scope.metadata(args.model, labels={"llm-serving/model": args.model}),
            spec=http_route_spec(args),
            opts=pulumi.ResourceOptions(parent=self, depends_on=list(after)),
        )
        self.register_outputs({"host": route_host(args.scope, args.model, args.gateway.domain)})
