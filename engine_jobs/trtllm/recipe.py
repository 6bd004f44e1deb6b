"""TensorRT-LLM: a Llama-like checkpoint converted and built on the GPU type that serves, and served by Triton's backend for it."""

from pathlib import Path
from typing import Literal

from engine_jobs.build_chain import BuildChain
from engine_jobs.lifecycle import read_lifecycle
from engine_jobs.recipe import Build, Model, Plan, Platform, artifact, content_key
from engine_jobs.tensorrt_llm import served
from engine_jobs.tensorrt_llm.build_jobs import REPOSITORY_IMAGE, artifact_inputs, build_jobs, image_of
from engine_jobs.tensorrt_llm.checks import checked
from engine_jobs.tensorrt_llm.repository_files import repository_files
from engine_jobs.tensorrt_llm.settings import EngineSettings

NAME = "trtllm"


class TrtllmSettings(EngineSettings):
    """What a stack file may say of this recipe."""

    name: Literal["trtllm"]


class TrtllmRecipe:
    settings = TrtllmSettings

    def plan(self, model: Model, settings: TrtllmSettings, platform: Platform) -> Plan:
        engine = checked(model, settings)
        plan = engine.plan
        inputs = artifact_inputs(
            plan, settings, platform.image(image_of(plan, settings.backend)), platform.image(REPOSITORY_IMAGE)
        )
        made = artifact(NAME, model, inputs)
        chain = BuildChain(
            model=model, platform=platform, artifact=made, timeout_seconds=settings.build_timeout_seconds
        )
        runtime = served.runtime(model, plan, settings, platform)
        service = served.service(model, chain)
        subject = content_key([made.key, repr(runtime), repr(service)])
        return Plan(
            build=Build(artifact=made, jobs=build_jobs(chain, plan, settings)),
            runtime=runtime,
            service=service,
            smoke_test=lambda name: served.smoke_test(name, model, plan, platform, subject),
            lifecycle=read_lifecycle(Path(__file__).parent),
            files=repository_files(plan.serving, plan.release, settings.backend, plan.world_size),
            warnings=engine.warnings,
        )


RECIPE = TrtllmRecipe()
