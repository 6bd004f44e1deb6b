"""A plan of the shipped model, as the tests of components need one."""

from engine_jobs.fastertransformer.recipe import RECIPE, FasterTransformerSettings
from engine_jobs.recipe import Model, Plan, Platform, Question, Resources, Source
from stacks.gpus import gpu

SMALL = Resources(cpu="100m", memory="1Gi")


def make_plan(
    *,
    name: str = "tiny-bloom",
    revision: str = "a" * 40,
    image: str = "v1",
    tensor_parallel_size: int = 1,
    gpu_type: str | None = None,
    disk_claim: str | None = None,
    prompt: str = "Hello",
    memory: str = "1Gi",
) -> Plan:
    model = Model(
        name=name,
        sources={name: Source(model="llm-serving/tiny-bloom", revision=revision)},
        questions=(Question(prompt=prompt, max_tokens=4, expect=None),),
        job_resources=SMALL,
        predictor_resources=Resources(cpu="100m", memory=memory),
        transformer_resources=SMALL,
        store="s3://bucket/engines",
        gpu=gpu(gpu_type, "gpu") if gpu_type else None,
        disk_claim=disk_claim,
    )
    settings = FasterTransformerSettings(name="fastertransformer", tensor_parallel_size=tensor_parallel_size)
    platform = Platform(
        image=lambda role, _=None: f"registry.test/{role}:{image}",
        namespace="models",
        hub_endpoint="http://hub.test",
    )
    return RECIPE.plan(model, settings, platform)
