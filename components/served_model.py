"""One entry of a stack's models, from its checkpoint to a smoke-tested address.

Disk -> build Jobs -> InferenceService (asked from outside as it comes up) -> smoke test -> the model's own route, and what is to run
afterwards.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi

from components.engine_build import EngineBuild, EngineBuildArgs
from components.follow_up import FollowUp, FollowUpArgs
from components.kserve.inference_service import InferenceService, InferenceServiceArgs, service_name
from components.kserve.model_route import GatewayAddress, ModelRoute, ModelRouteArgs, route_host
from components.kubernetes.credentials import StoreAccess
from components.kubernetes.disk import Disk, DiskArgs
from components.kubernetes.metadata import Scope
from components.smoke_test import SmokeTest, SmokeTestArgs, ask_from_outside
from engine_jobs.recipe import Plan


@dataclass(frozen=True, kw_only=True)
class ServedModelArgs:
    """`store`: where its artifact is; `smoke_image`: the image of the smoke test's Job. `context`: the kubeconfig context that the
    hook asks through; None: nothing is asked from outside (a rendering makes nothing that could answer)."""

    scope: Scope
    plan: Plan
    store: StoreAccess
    hub_token: bool
    disk: DiskArgs | None
    gateway: GatewayAddress
    smoke_image: str
    context: str | None


class ServedModel(pulumi.ComponentResource):
    """`outputs` is what the program exports of the model."""

    def __init__(
        self,
        name: str,
        args: ServedModelArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:serving:ServedModel", name, None, opts)
        scope, plan, gateway = args.scope, args.plan, args.gateway
        child = pulumi.ResourceOptions(parent=self)
        ground = list(after)
        if args.disk:
            ground.append(Disk(f"{name}-disk", args.disk, child, after=after))
        engine = EngineBuildArgs(
            scope=scope,
            model=name,
            build=plan.build,
            store=args.store,
            hub_token=args.hub_token,
            disk_claim=args.disk.claim if args.disk else None,
        )
        build = EngineBuild(f"{name}-build", engine, child, after=ground)
        serving = InferenceService(
            name,
            InferenceServiceArgs(scope=scope, model=name, plan=plan, store=args.store.name),
            child,
            hooks=ask_from_outside(name, plan, gateway.address, args.context) if args.context else None,
            after=[build],
        )
        question = SmokeTestArgs(
            scope=scope, model=name, plan=plan, image=args.smoke_image, gateway=gateway.cluster_address
        )
        smoke = SmokeTest(f"{name}-smoke", question, child, after=[serving])
        ModelRoute(name, ModelRouteArgs(scope=scope, model=name, plan=plan, gateway=gateway), child, after=[smoke])
        afterwards = plan.afterwards(service_name(name, plan))
        if afterwards:
            follow_up = FollowUpArgs(scope=scope, model=name, jobs=afterwards, hub_token=args.hub_token)
            FollowUp(f"{name}-after", follow_up, child, after=[smoke])
        self.outputs = {
            "url": gateway.address,
            "host": route_host(scope, name, gateway.domain),
            "service": service_name(name, plan),
            "artifact": f"{args.store.url}/{plan.build.artifact.path}",
            "smokeTest": smoke.verdict,
        }
        self.register_outputs(self.outputs)
