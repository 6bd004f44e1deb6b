"""The recipe's Jobs call TensorRT-LLM's own commands, in the image and on the GPU type that serve."""

from dataclasses import replace
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.images import IMAGES
from engine_jobs.lifecycle import Status
from engine_jobs.recipe import JobSpec, Model, Plan, Platform, Question, Resources, Source
from engine_jobs.smoke_test.spec import HttpProbe
from engine_jobs.tensorrt_llm.build_jobs import CPU_IMAGE
from engine_jobs.trtllm.recipe import RECIPE, TrtllmSettings
from stacks.gpus import gpu
from stacks.settings import STACKS_DIR, parse_settings, read_stack_file
from tests.unit.test_trtllm_flags import TUTORIAL_BUILD
from tests.unit.test_trtllm_limits import LLAMA_31_8B, TUTORIAL_SERVING

ANSWER = "Michael Jordan"
L4 = gpu("nvidia-l4", "cloud.google.com/gke-accelerator")
MODEL = Model(
    name="llama",
    sources={"llama": Source(model="meta-llama/Llama-3.1-8B-Instruct", revision="a" * 40)},
    questions=(Question(prompt="Who?", max_tokens=30, expect=ANSWER),),
    job_resources=Resources(cpu="4", memory="40Gi", gpus=1),
    predictor_resources=Resources(cpu="4", memory="12Gi", gpus=1),
    transformer_resources=Resources(cpu="1", memory="1Gi"),
    store="s3://bucket/engines",
    gpu=L4,
    disk_claim="llama-disk",
)
PLATFORM = Platform(image=lambda name, _=None: f"registry.test/{name}:v1", namespace="models", hub_endpoint=None)


def make_plan(model: Model = MODEL, **settings: Any) -> Plan:
    given = {"convert": {"dtype": "float16"}, "build": TUTORIAL_BUILD, "serving": TUTORIAL_SERVING} | settings
    return RECIPE.plan(model, TrtllmSettings.model_validate({"name": "trtllm", **given}), PLATFORM)


def job(plan: Plan, name: str) -> JobSpec:
    return next(each for each in plan.build.jobs if each.name == name)


def command(spec: JobSpec, step: int = 0) -> str:
    """What is run unless the artifact is there."""
    return " ".join(spec.steps[step].command).partition(" -- ")[2]


def with_config(**config: Any) -> Model:
    source = replace(MODEL.source, config={**LLAMA_31_8B, **config})
    return replace(MODEL, sources={"llama": source})


class TestTheBuild:
    def test_goes_from_the_hub_to_the_disk(self) -> None:
        names = [each.name for each in make_plan().build.jobs]
        assert names == ["fetch", "convert", "build", "repository", "publish", "disk"]

    def test_calls_the_commands_with_every_flag(self) -> None:
        plan = make_plan()
        work = f"/mnt/work/{plan.build.artifact.short_key}"
        assert command(job(plan, "convert")) == (
            f"python3 /opt/tensorrt_llm/examples/llama/convert_checkpoint.py --model_dir {work}/checkpoint "
            f"--output_dir {work}/trtllm-checkpoint --tp_size 1 --pp_size 1 --dtype float16"
        )
        assert command(job(plan, "build")) == (
            f"trtllm-build --checkpoint_dir {work}/trtllm-checkpoint --output_dir {work}/engine --gemm_plugin float16 "
            "--max_batch_size 1 --max_num_tokens 4096 --max_input_len 16384 --max_seq_len 16384 --max_beam_width 3 "
            "--reduce_fusion enable --multiple_profiles enable --use_paged_context_fmha enable"
        )

    def test_is_where_it_will_serve(self) -> None:
        plan = make_plan()
        for name in ("convert", "build"):
            spec = job(plan, name)
            assert spec.image == plan.runtime.image == "registry.test/triton-trtllm-25.01:v1"
            assert spec.node_selector == plan.service.node_selector == L4.node_selector
            assert spec.resources.gpus == 1
        assert job(plan, "repository").resources.gpus == 0 == job(plan, "publish").resources.gpus

    def test_checks_the_engine_before_it_is_published(self) -> None:
        spec = job(make_plan(), "repository")
        assert [step.name for step in spec.steps] == ["check", "repository"]
        assert "check_engine" in command(spec) and "--tensorrt-llm-version 0.17.0" in command(spec)

    def test_takes_the_examples_of_its_version(self) -> None:
        plan = make_plan(tritonVersion="25.09", build={})
        assert "/opt/tensorrt_llm/examples/models/core/llama/convert_checkpoint.py" in command(job(plan, "convert"))

    def test_of_another_flag_version_or_gpu_is_another_artifact(self) -> None:
        keys = {
            make_plan().build.artifact.key,
            make_plan(build={}).build.artifact.key,
            make_plan(serving={}).build.artifact.key,
            make_plan(tritonVersion="25.02").build.artifact.key,
            make_plan(replace(MODEL, gpu=gpu("nvidia-a100-80gb", "gpu"))).build.artifact.key,
        }
        assert len(keys) == 5

    def test_on_two_gpus(self) -> None:
        model = replace(MODEL, predictor_resources=Resources(cpu="4", memory="12Gi", gpus=2))
        plan = make_plan(model, tensorParallelSize=2)
        assert "--tp_size 2 --pp_size 1" in command(job(plan, "convert"))
        assert "exec mpirun" in plan.files["run_triton.sh"]


class TestTheServer:
    def test_is_the_tutorials_runtime(self) -> None:
        runtime = make_plan().runtime
        assert (runtime.name, runtime.model_format, runtime.model_format_version) == (
            "triton-trtllm-models",
            "triton",
            "2",
        )
        assert runtime.command == ("sh", "/mnt/models/run_triton.sh")
        assert [port.number for port in runtime.ports] == [8080, 9000] and runtime.metrics_port == 8002
        assert runtime.shared_memory == "2Gi" and runtime.ready_path == "/v2/health/ready"

    def test_serves_from_the_disk(self) -> None:
        plan = make_plan()
        assert plan.service.storage_uri == f"pvc://llama-disk/{plan.build.artifact.path}"
        assert make_plan(replace(MODEL, disk_claim=None)).service.storage_uri.startswith("s3://bucket/engines/trtllm/")

    def test_is_asked_the_tutorials_way(self) -> None:
        probes = [each for each in make_plan().smoke_test("llama").probes if isinstance(each, HttpProbe) and each.body]
        assert [each.path for each in probes] == [
            "/v2/models/ensemble/generate",
            "/v2/models/tensorrt_llm_bls/generate",
        ]
        for probe in probes:
            assert probe.body == {
                "text_input": "Who?",
                "max_tokens": 30,
                "bad_words": "",
                "stop_words": "",
                "pad_id": 2,
                "end_id": 2,
            }
            assert (probe.answer, probe.expect_text) == ("/text_output", ANSWER)

    def test_is_asked_for_the_models_own_end(self) -> None:
        plan = make_plan(with_config(eos_token_id=[128001, 128008, 128009]))
        (probe, *_) = (
            p for p in plan.smoke_test("llama").probes if isinstance(p, HttpProbe) and isinstance(p.body, dict)
        )
        assert isinstance(probe.body, dict) and probe.body["end_id"] == probe.body["pad_id"] == 128009

    def test_is_asked_for_a_stream_where_it_is_decoupled(self) -> None:
        plan = make_plan(serving={"decoupled_mode": True})
        paths = [each.path for each in plan.smoke_test("llama").probes if isinstance(each, HttpProbe) and each.body]
        assert paths == ["/v2/models/ensemble/generate_stream", "/v2/models/tensorrt_llm_bls/generate_stream"]

    def test_shows_its_files(self) -> None:
        files = make_plan().files
        assert len(files) == 6
        assert 'string_value: "2560"' in files["model_repository/tensorrt_llm/config.pbtxt"]


class TestAPreviewSays:
    def test_the_contradictions(self) -> None:
        assert len(make_plan().warnings) == 7

    def test_that_the_flow_ends(self) -> None:
        assert make_plan().lifecycle.status is Status.END_OF_LIFE

    @pytest.mark.parametrize(
        ("model", "settings", "said"),
        [
            (MODEL, {"tensorrtLlmVersion": "0.12.0"}, "Triton 25.01 has TensorRT-LLM 0.17.0"),
            (
                MODEL,
                {"build": {"max_output_len": 5}, "convert": {"dtype": "fp16"}},
                "convert.dtype.*\nbuild.max_output_len",
            ),
            (MODEL, {"tensorParallelSize": 2}, "resources.predictor.gpus is 1, and tensorParallelSize 2 times"),
            (replace(MODEL, gpu=None), {}, "gpu: missing"),
            (replace(MODEL, job_resources=Resources(cpu="1", memory="1Gi")), {}, "resources.jobs.gpus is 0"),
            (with_config(), {"tensorParallelSize": 3}, "tensorParallelSize 3 does not divide"),
            (replace(with_config(), gpu=gpu("nvidia-tesla-t4", "gpu")), {}, "does not fit nvidia-tesla-t4"),
            (with_config(architectures=["OPTForCausalLM"]), {}, "is a OPTForCausalLM"),
        ],
    )
    def test_what_it_refuses(self, model: Model, settings: dict[str, Any], said: str) -> None:
        with pytest.raises(UserError, match=f"(?s){said}"):
            make_plan(model, **settings)


class TestOnTheLocalStack:
    LOCAL = replace(
        MODEL,
        gpu=None,
        job_resources=Resources(cpu="1", memory="1Gi"),
        predictor_resources=Resources(cpu="1", memory="1Gi"),
    )

    def test_the_stand_in_takes_the_same_commands(self) -> None:
        plan = make_plan(self.LOCAL, backend="python-cpu-stand-in")
        convert, build = job(plan, "convert"), job(plan, "build")
        assert convert.image == build.image == plan.runtime.image == f"registry.test/{CPU_IMAGE}:v1"
        assert convert.env == build.env == plan.runtime.env == {"TRTLLM_STAND_IN_VERSION": "0.17.0"}
        assert command(convert).startswith("python3 /opt/tensorrt_llm/") and command(build).startswith("trtllm-build ")
        assert 'backend: "python"' in plan.files["model_repository/tensorrt_llm/config.pbtxt"]

    def test_one_process_stands_in_for_all_ranks(self) -> None:
        plan = make_plan(self.LOCAL, backend="python-cpu-stand-in", tensorParallelSize=2)
        script = plan.files["run_triton.sh"]
        assert "for rank in 0 1;" in script and "mpirun" not in script and "exec tritonserver" in script


class TestTheExample:
    def test_has_every_flag_of_the_tutorial(self) -> None:
        file = STACKS_DIR / "examples" / "llama-3.1-8b-instruct.yaml"
        model = parse_settings(read_stack_file(file), file).models["llama"]
        assert isinstance(model.recipe, TrtllmSettings)
        assert dict(model.recipe.build) == TUTORIAL_BUILD and dict(model.recipe.convert) == {"dtype": "float16"}
        assert TUTORIAL_SERVING.items() <= dict(model.recipe.serving).items()
        assert model.disk is not None and model.disk.size == "150Gi"


class TestImages:
    def test_every_release_has_one_and_none_is_built_here(self) -> None:
        names = {name for name in IMAGES if name.startswith("triton-trtllm-")}
        assert {"triton-trtllm-24.08", "triton-trtllm-25.01", "triton-trtllm-25.09"} <= names
        for name in names:
            assert not IMAGES[name].local
            assert IMAGES[name].args["TRITON_VERSION"] == name.removeprefix("triton-trtllm-")
