"""The program: a platform for models, then each model from its checkpoint to a smoke-tested address."""

import pulumi
import pulumi_kubernetes as k8s

from components.engine_build import EngineBuild, EngineBuildArgs
from components.kserve.inference_service import InferenceService, InferenceServiceArgs, service_name
from components.kserve.model_route import ModelRoute, ModelRouteArgs, route_host
from components.kserve.serving_runtime import ServingRuntime, ServingRuntimeArgs, runtime_name
from components.kubernetes.bucket import EndpointBucket, EndpointBucketArgs
from components.kubernetes.credentials import CredentialsArgs
from components.kubernetes.job import StoreAccess
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import ModelNamespace, ModelNamespaceArgs
from components.kubernetes.work_volume import WorkVolume, WorkVolumeArgs
from components.smoke_test import SmokeTest, SmokeTestArgs, ask_from_outside
from engine_jobs.errors import UserError
from stacks.inputs import Inputs, from_engine
from stacks.planning import image_reference, plan_model


def deploy(inputs: Inputs) -> None:
    platform, store = inputs.settings.platform, inputs.settings.platform.store
    gateway, context = platform.gateway, platform.cluster.context
    scope = Scope(stack=inputs.stack, namespace=platform.namespace)
    access = StoreAccess(region=store.region, endpoint=store.endpoint, hub_token=inputs.hub_token is not None)
    plans = {name: plan_model(name, m, platform, inputs.resolve) for name, m in inputs.settings.models.items()}

    # Upsert: an `up` that was killed after a create and before it was recorded goes on; the stack label guards against strangers.
    cluster = k8s.Provider("cluster", context=context, cluster_identifier=context, upsert_existing_objects=True)
    here = pulumi.ResourceOptions(provider=cluster)
    credentials = CredentialsArgs(
        scope=scope,
        store_access_key_id=inputs.store_keys.access_key_id,
        store_secret_access_key=inputs.store_keys.secret_access_key,
        store_region=store.region,
        store_endpoint=store.endpoint,
        hub_token=inputs.hub_token,
    )
    namespace = ModelNamespace("models", ModelNamespaceArgs(scope=scope, credentials=credentials), here)
    disk = platform.work_volume
    volume = WorkVolumeArgs(scope=scope, size=disk.size, host_path=disk.host_path, storage_class=disk.storage_class)
    ground: list[pulumi.Resource] = [namespace, WorkVolume("work", volume, here, after=[namespace])]
    if store.create:
        jobs_image = image_reference(platform.images, "jobs")
        bucket = EndpointBucketArgs(scope=scope, bucket=store.bucket, image=jobs_image, access=access)
        ground.append(EndpointBucket("store", bucket, here, after=[namespace]))
    runtimes = {
        (key := runtime_name(plan.runtime)): ServingRuntime(
            key, ServingRuntimeArgs(scope=scope, runtime=plan.runtime), here, after=[namespace]
        )
        for plan in {runtime_name(plan.runtime): plan for plan in plans.values()}.values()
    }

    outputs = {}
    for name, plan in plans.items():
        artifact, service = plan.build.artifact, service_name(name, plan)
        pulumi.log.info(f"{name}: artifact {artifact.path}: {inputs.artifact_state(artifact)}")
        build = EngineBuild(
            f"{name}-build",
            EngineBuildArgs(scope=scope, model=name, build=plan.build, access=access),
            here,
            after=ground,
        )
        serving = InferenceService(
            name,
            InferenceServiceArgs(scope=scope, model=name, plan=plan),
            here,
            hooks=ask_from_outside(name, plan, gateway.address, context) if inputs.live else None,
            after=[build, runtimes[runtime_name(plan.runtime)]],
        )
        smoke = SmokeTest(
            f"{name}-smoke",
            SmokeTestArgs(
                scope=scope,
                model=name,
                plan=plan,
                image=image_reference(platform.images, "smoke-test"),
                gateway=gateway.cluster_address,
            ),
            here,
            after=[serving],
        )
        route = ModelRouteArgs(
            scope=scope,
            model=name,
            service=service,
            transformer=plan.service.transformer is not None,
            gateway_name=gateway.name,
            gateway_namespace=gateway.namespace,
            domain=gateway.domain,
        )
        ModelRoute(name, route, here, after=[smoke])
        outputs[name] = {
            "url": gateway.address,
            "host": route_host(scope, name, gateway.domain),
            "service": service,
            "artifact": f"{store.url}/{artifact.path}",
            "smokeTest": smoke.verdict,
        }
    pulumi.export("models", outputs)


if __name__ == "__main__":
    try:
        deploy(from_engine())
    except UserError as error:
        raise pulumi.RunError(str(error)) from None
