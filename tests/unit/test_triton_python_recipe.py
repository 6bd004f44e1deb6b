"""The recipe triton-python: what it builds and serves of one checkpoint or several, and what it refuses at preview."""

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
from pydantic import ValidationError

from engine_jobs.errors import UserError
from engine_jobs.recipe import Model, Plan, Platform, Question, Resources, Source
from engine_jobs.smoke_test.spec import HttpProbe
from engine_jobs.triton_python.recipe import RECIPE
from engine_jobs.triton_python.settings import TritonPythonSettings
from stacks.gpus import gpu

FALCON = {
    "hidden_size": 4544,
    "num_hidden_layers": 32,
    "num_attention_heads": 71,
    "vocab_size": 65024,
    "multi_query": True,
    "new_decoder_architecture": False,
    "torch_dtype": "bfloat16",
}
"""tiiuae/falcon-7b's config.json, in part: 6.9 billion weights."""


def reference(name: str, arguments: Mapping[str, str] | None = None) -> str:
    return "-".join([f"registry.test/{name}:v1", *(arguments or {}).values()])


PLATFORM = Platform(image=reference, namespace="models", hub_endpoint=None)


def plan(
    *, sources: Mapping[str, Mapping[str, Any] | None], gpus: int = 0, gpu_type: str | None = None, **settings: Any
) -> Plan:
    """`sources`: each model's config.json by the name it is served under."""
    several = len(sources) > 1
    model = Model(
        name="server",
        sources={
            name: Source(model=f"acme/{name}", revision="a" * 40, config=config) for name, config in sources.items()
        },
        questions=tuple(
            Question(prompt="Hi", max_tokens=3, expect="Hi there", model=name if several else None) for name in sources
        ),
        job_resources=Resources(cpu="1", memory="1Gi"),
        predictor_resources=Resources(cpu="1500m", memory="1Gi", gpus=gpus),
        transformer_resources=Resources(cpu="1", memory="1Gi"),
        store="s3://bucket/engines",
        gpu=gpu(gpu_type, "gpu") if gpu_type else None,
    )
    return RECIPE.plan(model, TritonPythonSettings.model_validate({"name": "triton-python", **settings}), PLATFORM)


class TestOneCheckpoint:
    def test_is_fetched_laid_out_and_published(self) -> None:
        jobs = plan(sources={"opt": None}).build.jobs
        assert [(job.name, [step.name for step in job.steps]) for job in jobs] == [
            ("fetch", ["fetch"]),
            ("repository", ["repository"]),
            ("publish", ["publish"]),
        ]
        assert [job.name for job in jobs if job.needs_hub_token] == ["fetch"]

    def test_is_two_models_of_triton(self) -> None:
        files = plan(sources={"opt": None}, maxTokens=7).files
        assert set(files) == {"opt/config.pbtxt", "opt_stream/config.pbtxt"}
        assert "decoupled: true" in files["opt_stream/config.pbtxt"]
        assert 'key: "max_tokens"' in files["opt_stream/config.pbtxt"]

    def test_is_asked_as_inference_by_generate_and_streamed(self) -> None:
        probes = plan(sources={"opt": None}).smoke_test("service").probes
        asked = [probe.path for probe in probes if isinstance(probe, HttpProbe) and probe.expect_text == "Hi there"]
        assert asked == [
            "/v2/models/opt/infer",
            "/v2/models/opt_stream/generate_stream",
            "/v2/models/opt/generate",
        ]

    def test_of_a_batching_model_the_question_has_a_batch_dimension(self) -> None:
        made = plan(sources={"opt": None}, maxBatchSize=8, dynamicBatching={"preferredBatchSizes": [4]})
        (infer,) = [p for p in made.smoke_test("s").probes if isinstance(p, HttpProbe) and p.path.endswith("/infer")]
        assert isinstance(infer.body, dict) and isinstance(infer.body["inputs"], list)
        first = infer.body["inputs"][0]
        assert isinstance(first, dict) and first["shape"] == [1, 1]
        assert "preferred_batch_size: 4" in made.files["opt/config.pbtxt"]

    def test_gets_as_many_threads_as_cores(self) -> None:
        assert plan(sources={"opt": None}).runtime.env == {"OMP_NUM_THREADS": "2"}


class TestSeveralInOneServer:
    SOURCES: ClassVar[Mapping[str, None]] = {"falcon7b": None, "persimmon8b": None}

    def test_each_has_its_checkpoint_and_its_own_settings_over_the_common_ones(self) -> None:
        made = plan(sources=self.SOURCES, maxTokens=5, instances=2, models={"falcon7b": {"instances": 9}})
        (fetch, repository, _) = made.build.jobs
        assert [step.name for step in fetch.steps] == ["fetch-falcon7b", "fetch-persimmon8b"]
        assert "count: 9" in made.files["falcon7b/config.pbtxt"]
        assert "count: 2" in made.files["persimmon8b/config.pbtxt"]
        (step,) = repository.steps
        folders = [step.command[i + 1] for i, word in enumerate(step.command) if word == "--checkpoint"]
        assert [folder.partition("=")[0] for folder in folders] == list(self.SOURCES)

    def test_explicit_control_loads_them_by_name_and_lets_their_settings_be_searched(self) -> None:
        made = plan(sources=self.SOURCES, modelControl="explicit")
        assert "--model-control-mode=explicit" in made.runtime.command
        loaded = [word.removeprefix("--load-model=") for word in made.runtime.command if "--load-model" in word]
        assert loaded == ["falcon7b_stream", "falcon7b", "persimmon8b_stream", "persimmon8b"]
        assert [(t.model, t.instances) for t in made.tuning] == [
            ("falcon7b", "models.falcon7b.instances"),
            ("persimmon8b", "models.persimmon8b.instances"),
        ]
        names = {probe.name for probe in made.smoke_test("s").probes}
        assert {t.probe for t in made.tuning} <= names

    def test_without_it_nothing_is_tuned(self) -> None:
        assert plan(sources=self.SOURCES).tuning == ()

    def test_a_change_of_one_is_another_artifact(self) -> None:
        before, after = (plan(sources=self.SOURCES, models={"falcon7b": {"maxTokens": n}}) for n in (5, 6))
        assert before.build.artifact.key != after.build.artifact.key


class TestADayZeroTransformers:
    def test_is_a_build_argument_of_the_gpu_image(self) -> None:
        made = plan(sources={"opt": None}, gpus=1, transformers={"gitRevision": "abc123"})
        wanted = "git+https://github.com/huggingface/transformers.git@abc123"
        assert made.runtime.image == f"registry.test/triton-python:v1-{wanted}"

    def test_is_refused_without_a_gpu(self) -> None:
        with pytest.raises(UserError, match="only the GPU image"):
            plan(sources={"opt": None}, transformers={"version": "5.18.0"})

    def test_is_a_version_or_a_revision(self) -> None:
        with pytest.raises(ValidationError, match="either version or gitRevision"):
            plan(sources={"opt": None}, transformers={})


class TestTheGpuSMemory:
    def test_a_model_that_fits_is_planned(self) -> None:
        assert plan(sources={"falcon7b": FALCON}, gpus=1, gpu_type="nvidia-l4", maxLength=2048)

    def test_one_that_does_not_is_refused_with_the_parts(self) -> None:
        with pytest.raises(UserError) as refused:
            plan(sources={"falcon7b": FALCON}, gpus=1, gpu_type="nvidia-tesla-t4", dtype="float32")
        message = str(refused.value)
        assert "nvidia-tesla-t4 has 16.0 GB" in message and "falcon7b: weights 27." in message
        assert "lower maxSequences or maxLength" in message

    def test_two_that_fit_alone_and_not_together_are_refused(self) -> None:
        with pytest.raises(UserError, match="serve fewer models"):
            plan(sources={"one": FALCON, "two": FALCON}, gpus=1, gpu_type="nvidia-l4", maxLength=2048)


class TestWhatIsRefused:
    def test_settings_of_a_model_that_is_not_there(self) -> None:
        with pytest.raises(UserError, match=r"recipe\.models: flacon7b: not in sources \(falcon7b, persimmon8b\)"):
            plan(sources=TestSeveralInOneServer.SOURCES, models={"flacon7b": {"instances": 1}})

    def test_dynamic_batching_of_nothing(self) -> None:
        with pytest.raises(ValidationError, match="dynamicBatching needs maxBatchSize"):
            plan(sources={"opt": None}, dynamicBatching={})

    def test_a_preferred_batch_above_the_largest(self) -> None:
        with pytest.raises(ValidationError, match="16 is above maxBatchSize 8"):
            plan(sources={"opt": None}, maxBatchSize=8, dynamicBatching={"preferredBatchSizes": [16]})
