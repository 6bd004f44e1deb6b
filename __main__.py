"""The program: a platform for models, then each model from its checkpoint to a smoke-tested address."""

import pulumi
import pulumi_kubernetes as k8s

from components.kserve.model_route import GatewayAddress
from components.kserve.serving_runtime import ServingRuntime, ServingRuntimeArgs, runtime_name
from components.kubernetes.bucket import EndpointBucket, EndpointBucketArgs
from components.kubernetes.credentials import Access, StoreAccess
from components.kubernetes.disk import WORK_CLAIM, Disk, DiskArgs
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import ModelNamespace, ModelNamespaceArgs
from components.served_model import ServedModel, ServedModelArgs
from engine_jobs.errors import UserError
from stacks.inputs import Inputs, from_engine
from stacks.planning import JOBS_IMAGE, SMOKE_TEST_IMAGE, disk_claim, image_reference, plan_models


def deploy(inputs: Inputs) -> None:
    settings, platform = inputs.settings, inputs.settings.platform
    context, credentials = platform.cluster.context, inputs.credentials
    scope = Scope(stack=inputs.stack, namespace=platform.namespace)
    gateway = GatewayAddress(**platform.gateway.model_dump())
    stores = {
        name: StoreAccess(
            name=name,
            url=store.url,
            region=store.region,
            endpoint=store.endpoint,
            s3_keys=credentials.s3_keys if store.scheme == "s3" else None,
        )
        for name, store in platform.stores.items()
    }
    jobs_image, smoke_image = (image_reference(platform.images, name) for name in (JOBS_IMAGE, SMOKE_TEST_IMAGE))
    plans = plan_models(settings, inputs.hub)

    # Upsert: an `up` that was killed between a create and its record goes on; the stack label guards against strangers.
    cluster = k8s.Provider("cluster", context=context, cluster_identifier=context, upsert_existing_objects=True)
    here = pulumi.ResourceOptions(provider=cluster)
    access = Access(stores=stores, hub_token=credentials.hub_token)
    namespace = ModelNamespace("models", ModelNamespaceArgs(scope=scope, access=access), here)
    work = DiskArgs(scope=scope, claim=WORK_CLAIM, **platform.work_volume.model_dump())
    ground: list[pulumi.Resource] = [namespace, Disk(WORK_CLAIM, work, here, after=[namespace])]
    for name, store in platform.stores.items():
        if store.create:
            bucket = EndpointBucketArgs(scope=scope, store=stores[name], image=jobs_image)
            ground.append(EndpointBucket(name, bucket, here, after=[namespace]))
    runtimes: dict[str, ServingRuntime] = {}
    for runtime in (plan.runtime for plan in plans.values()):
        if (name := runtime_name(runtime)) not in runtimes:
            args = ServingRuntimeArgs(scope=scope, runtime=runtime)
            runtimes[name] = ServingRuntime(name, args, here, after=[namespace])

    outputs = {}
    for name, plan in plans.items():
        model, artifact = settings.models[name], plan.build.artifact
        for warning in plan.warnings:
            pulumi.log.warn(f"{name}: {warning}")
        pulumi.log.info(
            f"{name}: artifact {artifact.path}: {inputs.artifact_state(settings.store_of(model), artifact)}"
        )
        served = ServedModelArgs(
            scope=scope,
            plan=plan,
            store=stores[settings.store_name(model)],
            hub_token=credentials.hub_token is not None,
            disk=DiskArgs(scope=scope, claim=disk_claim(name), **model.disk.model_dump()) if model.disk else None,
            gateway=gateway,
            smoke_image=smoke_image,
            context=context if inputs.live else None,
        )
        outputs[name] = ServedModel(name, served, here, after=[*ground, runtimes[runtime_name(plan.runtime)]]).outputs
    pulumi.export("models", outputs)


if __name__ == "__main__":
    try:
        deploy(from_engine())
    except UserError as error:
        raise pulumi.RunError(str(error)) from None
