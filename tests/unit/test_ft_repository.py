"""The Triton repository has FasterTransformer's tensors, parameters and files, all of them or none."""

import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer import convert, repository
from tests.unit.bloom_checkpoints import ROOT, SIX_HEADS, TINY, golden_sums, sums

OPTIONAL_SCALARS = {
    "TYPE_UINT32": {
        *("runtime_top_k", "beam_width", "start_id", "end_id", "prompt_learning_task_name_ids"),
        *("request_prompt_lengths", "request_prompt_type", "top_p_reset_ids"),
    },
    "TYPE_FP32": {
        *("runtime_top_p", "beam_search_diversity_rate", "temperature", "len_penalty", "repetition_penalty"),
        *("top_p_decay", "top_p_min"),
    },
    "TYPE_UINT64": {"random_seed"},
    "TYPE_BOOL": {"is_return_log_probs", "is_return_context_embeddings"},
}


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """tiny-bloom converted for two GPUs."""
    output = tmp_path_factory.mktemp("weights")
    convert.main(
        ["--input-dir", str(TINY), "--output-dir", str(output), "--tensor-parallel-size", "2", "--data-type", "fp16"]
    )
    return output / "2-gpu"


def arguments(weights: Path, output: Path, backend: str = "fastertransformer", *more: str) -> list[str]:
    paths = ["--weights-dir", str(weights), "--checkpoint-dir", str(TINY), "--output-dir", str(output)]
    return [*paths, "--backend", backend, *more]


def written(weights: Path, output: Path, backend: str = "fastertransformer", *more: str) -> Path:
    repository.main(arguments(weights, output, backend, *more))
    return output / "fastertransformer"


def parsed(model: Path) -> Any:
    text = (model / "config.pbtxt").read_text(encoding="utf-8")
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def kind(tensor: Any) -> str:
    name: str = model_config_pb2.DataType.Name(tensor.data_type)
    return name


class TestConfigIsFasterTransformers:
    @pytest.fixture(params=["fastertransformer", "python-cpu-stand-in"])
    def config(self, request: pytest.FixtureRequest, weights: Path, tmp_path: Path) -> Any:
        return parsed(written(weights, tmp_path / "r", request.param))

    def test_model(self, config: Any) -> None:
        assert (config.name, config.max_batch_size) == ("fastertransformer", 1024)
        assert config.HasField("model_transaction_policy")
        assert not config.model_transaction_policy.decoupled
        (group,) = config.instance_group
        assert (group.count, group.kind) == (1, model_config_pb2.ModelInstanceGroup.KIND_CPU)

    def test_inputs(self, config: Any) -> None:
        inputs = {tensor.name: tensor for tensor in config.input}
        assert len(inputs) == len(config.input) == 24
        required = {name for name, tensor in inputs.items() if not tensor.optional}
        assert required == {"input_ids", "input_lengths", "request_output_len"}
        scalars = {name for name, tensor in inputs.items() if tensor.HasField("reshape")}
        assert scalars == {"input_lengths"}.union(*OPTIONAL_SCALARS.values())
        for name in scalars:
            assert (list(inputs[name].dims), list(inputs[name].reshape.shape)) == ([1], [])
        for data_type, names in OPTIONAL_SCALARS.items():
            assert {kind(inputs[name]) for name in names} == {data_type}
        others = {name: (kind(inputs[name]), list(inputs[name].dims)) for name in inputs.keys() - scalars}
        assert others == {
            "input_ids": ("TYPE_UINT32", [-1]),
            "request_output_len": ("TYPE_UINT32", [-1]),
            "stop_words_list": ("TYPE_INT32", [2, -1]),
            "bad_words_list": ("TYPE_INT32", [2, -1]),
            "request_prompt_embedding": ("TYPE_FP16", [-1, -1]),
        }

    def test_outputs(self, config: Any) -> None:
        assert [(tensor.name, kind(tensor), list(tensor.dims)) for tensor in config.output] == [
            ("output_ids", "TYPE_UINT32", [-1, -1]),
            ("sequence_length", "TYPE_UINT32", [-1]),
            ("response_input_lengths", "TYPE_INT32", [-1]),
            ("cum_log_probs", "TYPE_FP32", [-1]),
            ("output_log_probs", "TYPE_FP32", [-1, -1]),
            ("context_embeddings", "TYPE_FP32", [-1, -1]),
        ]

    def test_parameters(self, config: Any) -> None:
        values = {name: value.string_value for name, value in config.parameters.items()}
        stand_in = values.pop("stand_in", None)
        assert (config.backend, stand_in is None) in {("fastertransformer", True), ("python", False)}
        assert values == {
            "tensor_para_size": "2",
            "pipeline_para_size": "1",
            "data_type": "fp16",
            "model_type": "GPT",
            "model_checkpoint_path": "/mnt/models/fastertransformer/1",
            "int8_mode": "0",
            "enable_custom_all_reduce": "0",
        }

    def test_what_the_command_line_sets(self, weights: Path, tmp_path: Path) -> None:
        more = (
            "--data-type",
            "fp32",
            "--pipeline-parallel-size",
            "3",
            "--served-path",
            "/m",
            "--tensor-parallel-size",
            "2",
        )
        config = parsed(written(weights, tmp_path / "r", "fastertransformer", *more))
        values = {name: config.parameters[name].string_value for name in config.parameters}
        assert (values["data_type"], values["pipeline_para_size"], values["model_checkpoint_path"]) == (
            "fp32",
            "3",
            "/m",
        )


class TestFilesAreThoseOfTheBackend:
    def test_a_gpu_gets_weights_and_tokenizer_only(self, weights: Path, tmp_path: Path) -> None:
        version = written(weights, tmp_path / "r") / "1"
        tokenizer = sums(version / "tokenizer")
        assert set(tokenizer) == {"tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"}
        shutil.rmtree(version / "tokenizer")
        assert sums(version) == golden_sums("tiny-bloom", 2, "fp16")
        assert {path.name for path in tmp_path.joinpath("r").iterdir()} == {"fastertransformer"}

    def test_weights_take_no_second_room(self, weights: Path, tmp_path: Path) -> None:
        version = written(weights, tmp_path / "r") / "1"
        assert (version / "model.wte.bin").samefile(weights / "model.wte.bin")

    def test_weights_are_copied_where_they_cannot_be_linked(
        self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def no_links(self: Path, target: Path) -> None:
            raise OSError(18, "Invalid cross-device link", str(self))

        monkeypatch.setattr(Path, "hardlink_to", no_links)
        version = written(weights, tmp_path / "r") / "1"
        assert not (version / "model.wte.bin").samefile(weights / "model.wte.bin")
        assert (version / "model.wte.bin").read_bytes() == (weights / "model.wte.bin").read_bytes()

    def test_the_stand_in_travels_with_all_that_it_imports(self, weights: Path, tmp_path: Path) -> None:
        version = written(weights, tmp_path / "r", "python-cpu-stand-in") / "1"
        source = (version / "model.py").read_text(encoding="utf-8")
        assert "the CPU stand-in" in source
        imports = "\n".join(line for line in source.splitlines() if line.startswith("from engine_jobs"))
        names = "import sys; print([m.__file__ for n, m in sys.modules.items() if n.startswith('engine_jobs.')])"
        answer = subprocess.run(
            [sys.executable, "-c", f"{imports}\n{names}"], cwd=version, capture_output=True, text=True, check=True
        )
        assert str(ROOT / "engine_jobs") not in answer.stdout
        assert str(version / "engine_jobs") in answer.stdout


class TestAllOrNothing:
    def test_a_second_run_does_nothing(self, weights: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        written(weights, tmp_path / "r", "python-cpu-stand-in")
        before = (tmp_path / "r").stat().st_mtime_ns
        written(weights, tmp_path / "r", "python-cpu-stand-in")
        assert "is complete, nothing to do" in capsys.readouterr().err
        assert (tmp_path / "r").stat().st_mtime_ns == before

    def test_a_repository_of_something_else_is_not_touched(self, weights: Path, tmp_path: Path) -> None:
        written(weights, tmp_path / "r")
        with pytest.raises(UserError, match="exists and was made from other files or settings"):
            written(weights, tmp_path / "r", "python-cpu-stand-in")
        (tmp_path / "r" / "fastertransformer" / "1" / "model.wte.bin").unlink()
        with pytest.raises(UserError, match="exists and was made from other files or settings"):
            written(weights, tmp_path / "r")

    def test_what_a_killed_run_left_is_replaced(self, weights: Path, tmp_path: Path) -> None:
        (tmp_path / ".r.partial" / "fastertransformer").mkdir(parents=True)
        written(weights, tmp_path / "r")
        assert [path.name for path in tmp_path.iterdir()] == ["r"]

    def test_a_failure_leaves_nothing(self, weights: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def full(path: Path) -> None:
            raise OSError(28, "No space left on device", str(path))

        monkeypatch.setattr(repository, "_sync", full)
        with pytest.raises(OSError, match="No space left on device"):
            written(weights, tmp_path / "r")
        assert list(tmp_path.iterdir()) == []


class TestWhatIsMissingIsNamed:
    def test_a_tokenizer(self, weights: Path, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"six-heads/tokenizer\.json is missing"):
            repository.main([*arguments(weights, tmp_path / "r"), "--checkpoint-dir", str(SIX_HEADS)])
        assert list(tmp_path.iterdir()) == []

    @pytest.mark.parametrize(
        ("spoil", "message"),
        [
            (lambda folder: (folder / "model.wte.bin").unlink(), r"is incomplete: model\.wte\.bin is missing"),
            (
                lambda folder: os.truncate(folder / "model.layers.0.mlp.dense_h_to_4h.bias.1.bin", 510),
                r"dense_h_to_4h\.bias\.1\.bin has 510 bytes instead of 512",
            ),
            (lambda folder: [path.unlink() for path in folder.glob("*.1.bin")], "and 9 more"),
            (lambda folder: (folder / "config.ini").unlink(), "is not a folder of FasterTransformer weights"),
            (lambda folder: (folder / "config.ini").write_text("[gpt]\nnum_layer=2\n"), "has no 'head_num'"),
            (lambda folder: (folder / "config.ini").write_text("[other]\n"), "has no 'gpt'"),
            (lambda folder: (folder / "config.ini").write_text("num_layer"), "cannot be read"),
        ],
    )
    def test_weights(self, weights: Path, tmp_path: Path, spoil: Any, message: str) -> None:
        shutil.copytree(weights, tmp_path / "w")
        spoil(tmp_path / "w")
        with pytest.raises(UserError, match=message):
            written(tmp_path / "w", tmp_path / "r")
        assert not (tmp_path / "r").exists()

    def test_weights_of_another_type(self, weights: Path, tmp_path: Path) -> None:
        shutil.copytree(weights, tmp_path / "w")
        config = tmp_path / "w" / "config.ini"
        config.write_text(config.read_text(encoding="utf-8").replace("fp16", "int8"), encoding="utf-8")
        with pytest.raises(UserError, match="weight_data_type 'int8' is none of fp32, fp16"):
            written(tmp_path / "w", tmp_path / "r")

    def test_weights_for_another_number_of_gpus(self, weights: Path, tmp_path: Path) -> None:
        command = [sys.executable, "-m", "engine_jobs.fastertransformer.repository"]
        command += arguments(weights, tmp_path / "r", "fastertransformer", "--tensor-parallel-size", "4")
        answer = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
        assert answer.returncode == 1
        assert "has tensor_para_size 2, and --tensor-parallel-size is 4" in answer.stderr
        assert "Traceback" not in answer.stderr
