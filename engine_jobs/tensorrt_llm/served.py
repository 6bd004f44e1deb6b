"""How a built repository is served by KServe, and how a request asks it."""

from typing import Final

from engine_jobs.build_chain import BuildChain
from engine_jobs.recipe import Model, Platform, Question, Runtime, Service
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.spec import HttpProbe, InferenceServiceTarget, SmokeTest, v2_probes
from engine_jobs.tensorrt_llm.build_jobs import SHARED_MEMORY, environment, image_of
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.launch import SCRIPT
from engine_jobs.tensorrt_llm.model_configs import SERVED_DIR
from engine_jobs.tensorrt_llm.settings import EngineSettings
from engine_jobs.triton_runtime import triton_runtime

RUNTIME: Final = "triton-trtllm"
ENSEMBLE: Final = "ensemble"
BLS: Final = "tensorrt_llm_bls"

TUTORIAL_END_ID: Final = 2
"""Llama 2's </s>; the tutorials write it for Llama 3.1 as well."""


def runtime(model: Model, plan: EnginePlan, settings: EngineSettings, platform: Platform) -> Runtime:
    """The tutorial's ClusterServingRuntime, started by the artifact's own script."""
    return triton_runtime(
        model,
        name=f"{RUNTIME}-{platform.namespace}",
        cluster_wide=True,
        image=platform.image(image_of(plan, settings.backend)),
        command=("sh", f"{SERVED_DIR}/{SCRIPT}"),
        start_timeout_seconds=settings.start_timeout_seconds,
        shared_memory=SHARED_MEMORY,
        env=environment(plan, settings.backend),
    )


def service(model: Model, chain: BuildChain) -> Service:
    """An InferenceService of it, on the GPU type that the engine was built on."""
    return Service(
        storage_uri=chain.storage_uri,
        resources=model.predictor_resources,
        node_selector=model.gpu.node_selector if model.gpu else {},
    )


def end_id(model: Model) -> int:
    """The id that ends an answer, from config.json. Of several the last: Llama 3.1 lists <|end_of_text|>, <|eom_id|> and <|eot_id|>,
    and the last is its tokenizer's own. Without a config.json the tutorial's."""
    ids = (model.source.config or {}).get("eos_token_id")
    last = ids[-1] if isinstance(ids, list) and ids else ids
    return last if isinstance(last, int) else TUTORIAL_END_ID


def generate_body(question: Question, end: int) -> dict[str, Json]:
    """The tutorial's request."""
    return {
        "text_input": question.prompt,
        "max_tokens": question.max_tokens,
        "bad_words": "",
        "stop_words": "",
        "pad_id": end,
        "end_id": end,
    }


def generate_probe(served_model: str, question: Question, end: int, *, stream: bool = False) -> HttpProbe:
    """A question to one of the repository's models, by Triton's generate extension. `stream`: for a decoupled model."""
    body = generate_body(question, end)
    return HttpProbe(
        name=f"{served_model} generate{' stream' if stream else ''}",
        method="POST",
        path=f"/v2/models/{served_model}/generate{'_stream' if stream else ''}",
        body={**body, "stream": True} if stream else body,
        answer="/text_output",
        expect_text=question.expect,
    )


def smoke_test(name: str, model: Model, plan: EnginePlan, platform: Platform, subject: str) -> SmokeTest:
    """The question to the ensemble and to the BLS model. With `decoupled_mode` Triton answers a BLS model's requests as a stream
    only."""
    question, end = model.question, end_id(model)
    return SmokeTest(
        name=model.name,
        subject=subject,
        target=InferenceServiceTarget(name=name, namespace=platform.namespace),
        probes=(
            *v2_probes(ENSEMBLE),
            *(
                generate_probe(each, question, end, stream=plan.served("decoupled_mode") is True)
                for each in (ENSEMBLE, BLS)
            ),
        ),
    )
