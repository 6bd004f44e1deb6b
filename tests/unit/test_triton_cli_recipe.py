"""Both ways of the tutorial's Llama 2, from a stack file's entry to Jobs, files, server, questions and benchmark."""

from dataclasses import replace
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.images import IMAGES
from engine_jobs.lifecycle import Status
from engine_jobs.recipe import JobSpec, Model, Plan, Platform, Question, Resources, Source
from engine_jobs.smoke_test.spec import HttpProbe
from engine_jobs.triton_cli.recipe import RECIPE
from engine_jobs.triton_cli.settings import TritonCliSettings
from stacks.gpus import gpu
from stacks.settings import STACKS_DIR, parse_settings, read_stack_file

ANSWER = "\nML is a branch of AI"
L4 = gpu("nvidia-l4", "cloud.google.com/gke-accelerator")
MODEL = Model(
    name="llama-2-7b",
    sources={"llama-2-7b": Source(model="meta-llama/Llama-2-7b-hf", revision="a" * 40)},
    questions=(Question(prompt="What is ML?", max_tokens=50, expect=ANSWER),),
    job_resources=Resources(cpu="4", memory="48Gi", gpus=1),
    predictor_resources=Resources(cpu="4", memory="24Gi", gpus=1),
    transformer_resources=Resources(cpu="1", memory="1Gi"),
    store="s3://bucket/engines",
    gpu=L4,
)
CPU_MODEL = replace(
    MODEL,
    gpu=None,
    job_resources=Resources(cpu="1", memory="1Gi"),
    predictor_resources=Resources(cpu="1", memory="1Gi"),
)
PLATFORM = Platform(image=lambda name, _=None: f"registry.test/{name}:v1", namespace="models", hub_endpoint=None)


def make_plan(model: Model = MODEL, platform: Platform = PLATFORM, **settings: Any) -> Plan:
    return RECIPE.plan(model, TritonCliSettings.model_validate({"name": "triton-cli", **settings}), platform)


def example(name: str) -> dict[str, Any]:
    """The recipe's settings in an example, as the file has them."""
    (entry,) = read_stack_file(STACKS_DIR / "examples" / f"{name}.yaml")["models"].values()
    return dict(entry["recipe"])


def job(plan: Plan, name: str) -> JobSpec:
    return next(each for each in plan.build.jobs if each.name == name)


def command(spec: JobSpec) -> str:
    """What is run unless the artifact is there."""
    return " ".join(spec.steps[0].command).partition(" -- ")[2]


def http_probes(plan: Plan) -> list[HttpProbe]:
    return [
        probe for probe in plan.smoke_test("served").probes if isinstance(probe, HttpProbe) and probe.method == "POST"
    ]


class TestTheManualWay:
    def test_builds_with_the_tutorials_flags(self) -> None:
        plan = make_plan(**example("llama-2-7b"))
        work = f"/mnt/work/{plan.build.artifact.short_key}"
        assert command(job(plan, "convert")) == (
            f"python3 /opt/tensorrt_llm/examples/llama/convert_checkpoint.py --model_dir {work}/checkpoint "
            f"--output_dir {work}/trtllm-checkpoint --tp_size 1 --pp_size 1 --dtype float16"
        )
        assert command(job(plan, "build")) == (
            f"trtllm-build --checkpoint_dir {work}/trtllm-checkpoint --output_dir {work}/engine --remove_input_padding enable "
            "--gpt_attention_plugin float16 --context_fmha enable --gemm_plugin float16 --paged_kv_cache enable --max_batch_size 4"
        )

    def test_says_what_has_superseded_a_flag_of_the_tutorials(self) -> None:
        warnings = make_plan(**example("llama-2-7b")).warnings
        assert any("paged_kv_cache" in warning and "kv_cache_type" in warning for warning in warnings)

    def test_refuses_the_tutorials_tokenizer_type(self) -> None:
        serving = {**example("llama-2-7b")["serving"], "tokenizer_type": "auto"}
        with pytest.raises(UserError, match=r"tokenizer_type: dropped in TensorRT-LLM 0\.9\.0"):
            make_plan(serving=serving)

    def test_of_two_ranks_is_started_by_mpi_and_needs_two_gpus(self) -> None:
        with pytest.raises(UserError, match=r"resources\.predictor\.gpus is 1"):
            make_plan(tensorParallelSize=2)
        two = replace(MODEL, predictor_resources=Resources(cpu="4", memory="24Gi", gpus=2))
        script = make_plan(two, tensorParallelSize=2).files["run_triton.sh"]
        assert "exec mpirun --allow-run-as-root" in script
        assert script.count("tritonserver --model-repository=/mnt/models/model_repository") == 2

    def test_has_no_name_of_its_own(self) -> None:
        with pytest.raises(UserError, match="importName"):
            make_plan(importName="llama-2-7b")


class TestTheImport:
    def test_is_the_tutorials_command_on_the_pinned_checkpoint(self) -> None:
        plan = make_plan(**example("llama-2-7b-import"))
        work = f"/mnt/work/{plan.build.artifact.short_key}"
        spec = job(plan, "import")
        wrapped, _, tutorial = command(spec).partition(" -- ")
        assert tutorial == (
            f"triton import -m llama-2-7b -s hf:{work}/checkpoint --backend tensorrtllm --repo {work}/models"
        )
        assert wrapped.startswith("python -m engine_jobs.triton_cli.import_model --name llama-2-7b")
        assert spec.env == {"ENGINE_DEST_PATH": f"{work}/engines"}
        assert (spec.image, spec.resources.gpus, spec.node_selector) == (
            "registry.test/triton-cli-25.02:v1",
            1,
            L4.node_selector,
        )
        assert [each.name for each in plan.build.jobs] == ["fetch", "import", "repository", "publish"]

    def test_serves_four_models_one_of_them_under_the_models_name(self) -> None:
        plan = make_plan(way="import")
        configs = [path.split("/")[1] for path in plan.files if path.endswith("config.pbtxt")]
        assert sorted(configs) == ["llama-2-7b", "postprocessing", "preprocessing", "tensorrt_llm"]
        bls = plan.files["model_repository/llama-2-7b/config.pbtxt"]
        assert 'name: "llama-2-7b"' in bls
        assert "decoupled: true" in bls
        assert "${" not in "".join(plan.files.values())
        assert plan.runtime.image == "registry.test/triton-trtllm-25.02:v1"

    def test_is_asked_at_once_and_as_a_stream(self) -> None:
        probes = http_probes(make_plan(way="import"))
        assert [(probe.path, probe.expect_text) for probe in probes] == [
            ("/v2/models/llama-2-7b/generate", ANSWER),
            ("/v2/models/llama-2-7b/generate_stream", ANSWER),
        ]

    def test_serves_as_the_import_fills_its_templates_and_what_is_said_over_it(self) -> None:
        config = make_plan(way="import").files["model_repository/tensorrt_llm/config.pbtxt"]
        assert "max_batch_size: 2048" in config
        other = make_plan(way="import", serving={"triton_max_batch_size": 16}).files
        assert "max_batch_size: 16" in other["model_repository/tensorrt_llm/config.pbtxt"]

    @pytest.mark.parametrize(
        ("settings", "reason"),
        [
            ({"build": {"max_batch_size": 4}}, "build: `triton import` takes no flags .* max_batch_size"),
            ({"convert": {"dtype": "float16"}}, "convert: `triton import` takes no flags"),
            ({"tensorParallelSize": 2}, "`triton import` builds for one GPU"),
            (
                {"tritonVersion": "25.06"},
                r"imports for Triton 25.01 and 25.02, and 25.06 \(TensorRT-LLM 0.20.0\) is pinned",
            ),
            ({"importName": "tensorrt_llm"}, "is what the import calls a model of its own"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, settings: dict[str, Any], reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            make_plan(way="import", **settings)

    def test_warns_of_too_little_memory_which_would_kill_it_without_a_word(self) -> None:
        little = replace(MODEL, job_resources=Resources(cpu="4", memory="40Gi", gpus=1))
        assert any("40Gi is below 48Gi" in warning for warning in make_plan(little, way="import").warnings)
        assert not any("is below 48Gi" in warning for warning in make_plan(way="import").warnings)

    def test_has_a_stand_in_with_the_same_command(self) -> None:
        plan = make_plan(CPU_MODEL, way="import", backend="python-cpu-stand-in")
        spec = job(plan, "import")
        assert spec.image == "registry.test/triton-cli-cpu:v1"
        assert " -- triton import -m llama-2-7b " in command(spec)
        assert spec.env["TRTLLM_STAND_IN_VERSION"] == "0.17.0.post1"

    def test_makes_another_artifact_than_the_manual_way_and_than_another_name(self) -> None:
        plans = (make_plan(), make_plan(way="import"), make_plan(way="import", importName="x"))
        assert len({plan.build.artifact.key for plan in plans}) == 3


class TestTheBenchmark:
    def test_is_the_tutorials_by_its_own_flags(self) -> None:
        (spec,) = make_plan(**example("llama-2-7b")).afterwards("served-1")
        assert spec.image == "registry.test/aiperf:v1"
        words = " ".join(spec.steps[0].command)
        for flag in (
            *("-m ensemble", "--url http://served-1-predictor.models.svc", "--num-prompts 100", "--random-seed 123"),
            *("--synthetic-input-tokens-mean 200", "--synthetic-input-tokens-stddev 0", "--output-tokens-mean 100"),
            *(
                "--output-tokens-stddev 0",
                "--output-tokens-mean-deterministic --min-tokens-input min_length",
                "--concurrency 1",
            ),
            *("--tokenizer hf-internal-testing/llama-tokenizer", "--measurement-interval 4000"),
            "--profile-export-file my_profile_export.json",
        ):
            assert flag in words

    def test_counts_with_the_models_own_tokenizer_and_names_its_server_where_nothing_else_is_said(self) -> None:
        platform = replace(PLATFORM, hub_endpoint="http://hub.test")
        (spec,) = make_plan(platform=platform, way="import", benchmark={}).afterwards("served-1")
        words = " ".join(spec.steps[0].command)
        assert (
            f"--tokenizer meta-llama/Llama-2-7b-hf --tokenizer-revision {'a' * 40} --hub-endpoint http://hub.test"
            in words
        )
        assert "-m llama-2-7b " in words
        assert spec.needs_hub_token

    def test_of_streams_needs_a_server_that_streams(self) -> None:
        with pytest.raises(UserError, match=r"benchmark\.streaming true and serving\.decoupled_mode false"):
            make_plan(benchmark={"streaming": True})
        (spec,) = make_plan(benchmark={"streaming": True}, serving={"decoupled_mode": True}).afterwards("served-1")
        assert "--streaming" in spec.steps[0].command

    def test_is_left_out_and_changes_no_engine(self) -> None:
        assert make_plan().afterwards("served-1") == ()
        assert make_plan().build.artifact == make_plan(benchmark={"concurrency": 4}).build.artifact


@pytest.mark.parametrize("name", ["llama-2-7b", "llama-2-7b-import"])
def test_an_example_is_a_whole_stack_file(name: str) -> None:
    path = STACKS_DIR / "examples" / f"{name}.yaml"
    (entry,) = parse_settings(read_stack_file(path), path).models.values()
    assert isinstance(entry.recipe, TritonCliSettings)


def test_every_image_that_a_plan_names_is_described() -> None:
    named: set[str] = set()

    def image(name: str, _: object = None) -> str:
        named.add(name)
        return name

    platform = replace(PLATFORM, image=image)
    for model, backend in ((MODEL, "tensorrtllm"), (CPU_MODEL, "python-cpu-stand-in")):
        for way in ("import", "manual"):
            plan = make_plan(model, platform, way=way, backend=backend, benchmark={})
            plan.afterwards("served")
    assert named <= set(IMAGES)
    assert {"triton-cli-25.02", "triton-cli-cpu", "triton-cli-repository", "aiperf"} <= named


def test_the_runtime_is_said_to_have_ended() -> None:
    assert make_plan().lifecycle.status is Status.END_OF_LIFE
