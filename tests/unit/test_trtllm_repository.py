"""The five-model repository is the template of its version, filled; the program publishes nothing that the image can't serve."""

import json
import os
import stat
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm import repository
from engine_jobs.tensorrt_llm.engine_folder import check_engine
from engine_jobs.tensorrt_llm.launch import launch_script
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN, TENSORRT_LLM, model_config_texts
from engine_jobs.tensorrt_llm.templates import MODELS
from tests.unit.bloom_checkpoints import ROOT
from tests.unit.test_trtllm_flags import DESCRIBED

GOLDEN = ROOT / "tests" / "golden" / "trtllm"
TINY_LLAMA = ROOT / "localcluster" / "models" / "tiny-llama"

TUTORIAL_SERVING: dict[str, Any] = {
    "triton_max_batch_size": 64,
    "decoupled_mode": False,
    "max_beam_width": 1,
    "max_tokens_in_paged_kv_cache": 2560,
    "max_attention_window_size": 2560,
    "kv_cache_free_gpu_mem_fraction": 0.5,
    "exclude_input_in_output": True,
    "enable_kv_cache_reuse": False,
    "batching_strategy": "inflight_fused_batching",
    "max_queue_delay_microseconds": 0,
}


def configs(version: str, backend: str = TENSORRT_LLM, **serving: Any) -> dict[str, Any]:
    texts = model_config_texts(serving, version, backend)
    return {name: text_format.Parse(text, model_config_pb2.ModelConfig()) for name, text in texts.items()}


def parameters(config: Any) -> dict[str, str]:
    return {name: value.string_value for name, value in config.parameters.items()}


class TestTheTextIsReviewed:
    @pytest.mark.parametrize("model", MODELS)
    def test_is_the_golden_file(self, model: str) -> None:
        text = model_config_texts(TUTORIAL_SERVING, "0.17.0", TENSORRT_LLM)[model]
        golden = GOLDEN / f"{model}.pbtxt"
        if os.environ.get("UPDATE_GOLDEN"):
            golden.parent.mkdir(exist_ok=True)
            golden.write_text(text, encoding="utf-8")
        assert text == golden.read_text(encoding="utf-8")


@pytest.mark.parametrize("version", DESCRIBED)
class TestInEveryVersion:
    def test_no_placeholder_is_left(self, version: str) -> None:
        for text in model_config_texts({}, version, TENSORRT_LLM).values():
            assert "${" not in text

    def test_the_ensembles_maps_name_tensors_that_are_there(self, version: str) -> None:
        made = configs(version)
        outer = {tensor.name for tensor in (*made["ensemble"].input, *made["ensemble"].output)}
        written = {tensor.name for tensor in made["ensemble"].input}
        for step in made["ensemble"].ensemble_scheduling.step:
            model = made[step.model_name]
            assert set(step.input_map) <= {tensor.name for tensor in model.input}
            assert set(step.output_map) <= {tensor.name for tensor in model.output}
            assert {t.name for t in model.input if not t.optional} <= set(step.input_map)
            assert set(step.input_map.values()) <= written
            written |= set(step.output_map.values())
        assert outer <= written

    def test_takes_the_tutorials_request(self, version: str) -> None:
        body = {"text_input", "max_tokens", "bad_words", "stop_words", "pad_id", "end_id", "stream"}
        for model in ("ensemble", "tensorrt_llm_bls"):
            config = configs(version)[model]
            assert body <= {tensor.name for tensor in config.input}
            assert {tensor.name for tensor in config.input if not tensor.optional} <= body
            assert "text_output" in {tensor.name for tensor in config.output}


class TestWhatTheVersionsDiffer:
    def test_in_names_of_tensors(self) -> None:
        old, new = ({t.name for t in configs(version)["ensemble"].input} for version in ("0.17.0", "0.20.0"))
        assert {"min_length", "random_seed"} <= old and {"min_tokens", "seed"} <= new
        assert not {"min_tokens", "seed"} & old and not {"min_length", "random_seed"} & new

    def test_in_the_type_of_logits(self) -> None:
        def kinds(version: str, **serving: Any) -> set[int]:
            return {
                t.data_type for t in configs(version, **serving)["tensorrt_llm"].output if t.name.endswith("logits")
            }

        assert kinds("0.12.0") == {model_config_pb2.TYPE_FP32}
        assert kinds("0.17.0", logits_datatype="TYPE_FP16") == {model_config_pb2.TYPE_FP16}

    def test_in_batching_of_preprocessing(self) -> None:
        assert not configs("0.17.0")["preprocessing"].HasField("dynamic_batching")
        batching = configs("0.20.0", max_queue_delay_microseconds=100)["preprocessing"].dynamic_batching
        assert batching.max_queue_delay_microseconds == 100 and list(batching.preferred_batch_size) == [64]


class TestVariables:
    def test_are_the_backends_parameters(self) -> None:
        made = configs("0.17.0", **TUTORIAL_SERVING)
        values = parameters(made["tensorrt_llm"])
        assert made["tensorrt_llm"].backend == "tensorrtllm"
        expected = {
            "gpt_model_type": "inflight_fused_batching",
            "gpt_model_path": "/mnt/models/engines",
            "max_tokens_in_paged_kv_cache": "2560",
            "kv_cache_free_gpu_mem_fraction": "0.5",
            "exclude_input_in_output": "true",
            "enable_kv_cache_reuse": "false",
        }
        assert expected.items() <= values.items()
        assert parameters(made["preprocessing"])["tokenizer_dir"] == "/mnt/models/tokenizer"

    def test_without_a_value_are_left_out(self) -> None:
        values = parameters(configs("0.17.0")["tensorrt_llm"])
        assert not {"max_tokens_in_paged_kv_cache", "encoder_model_path", "gpu_device_ids"} & values.keys()

    def test_of_instances_and_decoupling(self) -> None:
        made = configs("0.17.0", bls_instance_count=3, decoupled_mode=True)
        assert made["tensorrt_llm_bls"].instance_group[0].count == 3
        for model in ("tensorrt_llm", "tensorrt_llm_bls"):
            assert made[model].model_transaction_policy.decoupled
        assert not configs("0.17.0")["tensorrt_llm"].model_transaction_policy.decoupled

    def test_of_the_stand_in(self) -> None:
        config = configs("0.17.0", CPU_STAND_IN)["tensorrt_llm"]
        assert config.backend == "python" and "in place of" in parameters(config)["stand_in"]


@pytest.fixture
def engine(tmp_path: Path) -> Path:
    """An engine of TensorRT-LLM 0.17.0 for two GPUs, its plans being words."""
    folder = tmp_path / "engine"
    folder.mkdir()
    mapping = {"world_size": 2, "tp_size": 2, "pp_size": 1}
    config = {"version": "0.17.0", "pretrained_config": {"mapping": mapping}, "build_config": {}}
    (folder / "config.json").write_text(json.dumps(config))
    for rank in range(2):
        (folder / f"rank{rank}.engine").write_text(f"plan {rank}")
    return folder


def arguments(engine: Path, output: Path, *more: str) -> list[str]:
    paths = ["--engine-dir", str(engine), "--checkpoint-dir", str(TINY_LLAMA), "--output-dir", str(output)]
    return [*paths, "--triton-version", "25.01", "--tensor-parallel-size", "2", *more]


class TestTheProgram:
    def test_writes_the_whole_folder(self, engine: Path, tmp_path: Path) -> None:
        output = tmp_path / "made"
        repository.main(arguments(engine, output, "--serving", '{"triton_max_batch_size": 8}'))
        files = {path.relative_to(output).as_posix() for path in output.rglob("*") if path.is_file()}
        assert {f"model_repository/{model}/config.pbtxt" for model in MODELS} <= files
        for model in ("preprocessing", "postprocessing", "tensorrt_llm_bls"):
            assert f"model_repository/{model}/1/model.py" in files
        assert "model_repository/tensorrt_llm/1/model.py" not in files
        assert {"engines/config.json", "engines/rank0.engine", "engines/rank1.engine"} <= files
        assert {"tokenizer/tokenizer.json", "tokenizer/tokenizer_config.json", "run_triton.sh"} <= files
        assert "max_batch_size: 8" in (output / "model_repository/ensemble/config.pbtxt").read_text()
        assert all((output / f"model_repository/{model}/1").is_dir() for model in MODELS)

    def test_gives_the_stand_in_its_model(self, engine: Path, tmp_path: Path) -> None:
        output = tmp_path / "made"
        repository.main(arguments(engine, output, "--backend", CPU_STAND_IN))
        version = output / "model_repository/tensorrt_llm/1"
        assert (version / "model.py").is_file() and (version / "engine_jobs/errors.py").is_file()

    def test_runs_again_and_refuses_another_content(self, engine: Path, tmp_path: Path) -> None:
        output = tmp_path / "made"
        repository.main(arguments(engine, output))
        repository.main(arguments(engine, output))
        with pytest.raises(UserError, match="was made from other files or settings"):
            repository.main(arguments(engine, output, "--serving", '{"triton_max_batch_size": 8}'))

    def test_refuses_a_checkpoint_without_a_tokenizer(self, engine: Path, tmp_path: Path) -> None:
        empty = tmp_path / "checkpoint"
        empty.mkdir()
        with pytest.raises(UserError, match="has no tokenizer"):
            repository.main([*arguments(engine, tmp_path / "made"), "--checkpoint-dir", str(empty)])
        assert not (tmp_path / "made").exists()

    @pytest.mark.parametrize(
        ("serving", "said"),
        [
            ("[1]", "not a JSON object"),
            ("{", "not JSON"),
            ('{"tokenizer_type": "auto"}', "dropped in TensorRT-LLM"),
        ],
    )
    def test_refuses_variables_that_are_none(self, engine: Path, tmp_path: Path, serving: str, said: str) -> None:
        with pytest.raises(UserError, match=said):
            repository.main(arguments(engine, tmp_path / "made", "--serving", serving))

    def test_says_so_in_one_line(self, engine: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "engine_jobs.tensorrt_llm.check_engine", "--engine-dir", str(engine)]
        done = subprocess.run(
            [*command, "--tensorrt-llm-version", "0.12.0", "--tensor-parallel-size", "2"],
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 1 and done.stdout == ""
        assert done.stderr.startswith("error: ") and "Traceback" not in done.stderr


class TestAnEngineIsChecked:
    def test_of_the_images_version(self, engine: Path) -> None:
        check_engine(engine, "0.17.0", 2, 1)
        check_engine(engine, "0.17.0.post1", 2, 1)

    def test_of_another_version(self, engine: Path) -> None:
        with pytest.raises(UserError, match=r"version is 0\.17\.0, and the image .* 0\.20\.0.*tritonVersion 25\.01"):
            check_engine(engine, "0.20.0", 2, 1)

    @pytest.mark.parametrize(("tensor", "pipeline"), [(1, 1), (2, 2), (1, 2)])
    def test_of_another_split(self, engine: Path, tensor: int, pipeline: int) -> None:
        with pytest.raises(UserError, match="made for tp_size 2 and pp_size 1"):
            check_engine(engine, "0.17.0", tensor, pipeline)

    def test_that_lacks_a_rank(self, engine: Path) -> None:
        (engine / "rank1.engine").unlink()
        with pytest.raises(UserError, match=r"rank1\.engine missing: the build did not end"):
            check_engine(engine, "0.17.0", 2, 1)

    @pytest.mark.parametrize(
        ("text", "said"), [("{", "not JSON"), ("[]", "not an engine's"), ("{}", "version is None")]
    )
    def test_that_is_none(self, engine: Path, text: str, said: str) -> None:
        (engine / "config.json").write_text(text)
        with pytest.raises(UserError, match=said):
            check_engine(engine, "0.17.0", 2, 1)

    def test_that_is_absent(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is not the output of trtllm-build"):
            check_engine(tmp_path, "0.17.0", 1, 1)


class TestTheLaunchScript:
    """Run for real, with a tritonserver and an mpirun that say how they were called."""

    @pytest.fixture
    def served(self, engine: Path, tmp_path: Path) -> Path:
        programs = tmp_path / "bin"
        programs.mkdir()
        for name in ("tritonserver", "mpirun"):
            program = programs / name
            program.write_text(f'#!/bin/sh\necho "$$ {name}"\nfor word in "$@"; do printf "%s\\n" "$word"; done\n')
            program.chmod(program.stat().st_mode | stat.S_IXUSR)
        engine.rename(tmp_path / "engines")
        return tmp_path

    def run(self, served: Path, world_size: int) -> tuple[subprocess.Popen[str], list[str], str]:
        script = served / "run_triton.sh"
        script.write_text(launch_script(world_size, str(served)))
        process = subprocess.Popen(
            ["sh", str(script)],
            env={"PATH": f"{served / 'bin'}:/usr/bin:/bin"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        output, errors = process.communicate(timeout=30)
        return process, output.splitlines(), errors

    def test_becomes_the_server(self, served: Path) -> None:
        process, words, _ = self.run(served, 1)
        assert words[0] == f"{process.pid} tritonserver"
        assert words[1:] == [
            f"--model-repository={served}/model_repository",
            *("--http-port=8080", "--grpc-port=9000", "--metrics-port=8002", "--disable-auto-complete-config"),
            "--backend-config=python,shm-region-prefix-name=prefix0_",
        ]

    def test_becomes_mpirun_with_a_server_for_each_rank(self, served: Path) -> None:
        process, words, _ = self.run(served, 2)
        assert words[0] == f"{process.pid} mpirun"
        assert words[1] == "--allow-run-as-root"
        first, second = " ".join(words[2:]).split(" : ")
        assert first.startswith("-n 1 tritonserver ") and "--load-model" not in first and "prefix0_" in first
        assert second.startswith("-n 1 tritonserver ") and "prefix1_" in second
        assert "--model-control-mode=explicit --load-model=tensorrt_llm" in second

    def test_refuses_another_number_of_ranks(self, served: Path) -> None:
        process, words, errors = self.run(served, 3)
        assert process.returncode == 1 and words == []
        assert "rank2.engine is missing: this engine was not built for 3 rank(s)" in errors
