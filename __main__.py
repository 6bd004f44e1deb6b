"""The program: a platform for models, then each model from its checkpoint to a smoke-tested address."""

import pulumi
import pulumi_kubernetes as k8s

from components.engine_build import EngineBuild, EngineBuildArgs
from components.kserve.inference_service import InferenceService, InferenceServiceArgs, service_name
from components.kserve.model_route import ModelRoute, ModelRouteArgs, route_host
from components.kserve.serving_runtime import ServingRuntime, ServingRuntimeArgs, runtime_name
from components.kubernetes.bucket import EndpointBucket, EndpointBucketArgs
from components.kubernetes.credentials import Access
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import ModelNamespace, ModelNamespaceArgs
from components.kubernetes.work_volume import WorkVolume, WorkVolumeArgs
from components.smoke_test import SmokeTest, SmokeTestArgs, ask_from_outside
from engine_jobs.errors import UserError
from stacks.inputs import Inputs, from_engine
from stacks.planning import image_reference, plan_model


def deploy(inputs: Inputs) -> None:
    platform = inputs.settings.platform
    store, disk, gateway, context = platform.store, platform.work_volume, platform.gateway, platform.cluster.context
    jobs_image, smoke_image = (image_reference(platform.images, name) for name in ("jobs", "smoke-test"))
    plans = {name: plan_model(name, m, platform, inputs.resolve) for name, m in inputs.settings.models.items()}
    scope = Scope(stack=inputs.stack, namespace=platform.namespace)
    access = Access(region=store.region, endpoint=store.endpoint, **inputs.credentials)

    # Upsert: an `up` that was killed between a create and its record goes on; the stack label guards against strangers.
    cluster = k8s.Provider("cluster", context=context, cluster_identifier=context, upsert_existing_objects=True)
    here = pulumi.ResourceOptions(provider=cluster)
    namespace = ModelNamespace("models", ModelNamespaceArgs(scope=scope, access=access), here)
    volume = WorkVolumeArgs(scope=scope, size=disk.size, host_path=disk.host_path, storage_class=disk.storage_class)
    ground: list[pulumi.Resource] = [namespace, WorkVolume("work", volume, here, after=[namespace])]
    if store.create:
        bucket = EndpointBucketArgs(scope=scope, bucket=store.bucket, image=jobs_image, access=access)
        ground.append(EndpointBucket("store", bucket, here, after=[namespace]))
    runtimes: dict[str, ServingRuntime] = {}
    for runtime in (plan.runtime for plan in plans.values()):
        if (name := runtime_name(runtime)) not in runtimes:
            args = ServingRuntimeArgs(scope=scope, runtime=runtime)
            runtimes[name] = ServingRuntime(name, args, here, after=[namespace])

    outputs = {}
    for name, plan in plans.items():
        artifact = plan.build.artifact
        pulumi.log.info(f"{name}: artifact {artifact.path}: {inputs.artifact_state(artifact)}")
        engine = EngineBuildArgs(scope=scope, model=name, build=plan.build, access=access)
        build = EngineBuild(f"{name}-build", engine, here, after=ground)
        serving = InferenceService(
            name,
            InferenceServiceArgs(scope=scope, model=name, plan=plan),
            here,
            hooks=ask_from_outside(name, plan, gateway.address, context) if inputs.live else None,
            after=[build, runtimes[runtime_name(plan.runtime)]],
        )
        question = SmokeTestArgs(scope=scope, model=name, plan=plan, image=smoke_image, gateway=gateway.cluster_address)
        smoke = SmokeTest(f"{name}-smoke", question, here, after=[serving])
        route = ModelRouteArgs(
            scope=scope,
            model=name,
            plan=plan,
            gateway_name=gateway.name,
            gateway_namespace=gateway.namespace,
            domain=gateway.domain,
        )
        ModelRoute(name, route, here, after=[smoke])
        outputs[name] = {
            "url": gateway.address,
            "host": route_host(scope, name, gateway.domain),
            "service": service_name(name, plan),
            "artifact": f"{store.url}/{artifact.path}",
            "smokeTest": smoke.verdict,
        }
    pulumi.export("models", outputs)


if __name__ == "__main__":
    try:
        deploy(from_engine())
    except UserError as error:
        raise pulumi.RunError(str(error)) from None
