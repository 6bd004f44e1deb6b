"""The CPU stand-ins of convert_checkpoint.py, trtllm-build and triton import: their files, their flags, their refusals."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in import triton_import, trtllm_build
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import BUILDER, read_engine
from tests.unit.bloom_checkpoints import TINY as TINY_BLOOM
from tests.unit.llama_engines import TINY, built, converted

TUTORIAL = (
    *("--remove_input_padding", "enable", "--gpt_attention_plugin", "float16", "--context_fmha", "enable"),
    *("--gemm_plugin", "float16", "--paged_kv_cache", "enable", "--max_batch_size", "4"),
)


def content(file: Path) -> dict[str, Any]:
    return dict(json.loads(file.read_text(encoding="utf-8")))


def edited(target: Path, edit: Callable[[dict[str, Any]], object]) -> Path:
    """tiny-llama with another config.json."""
    shutil.copytree(TINY, target)
    config = content(target / "config.json")
    edit(config)
    (target / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return target


class TestConvertCheckpoint:
    def test_writes_tensorrt_llms_files(self, tmp_path: Path) -> None:
        folder = converted(TINY, tmp_path / "out", "--dtype", "float16", "--tp_size", "2")
        assert sorted(path.name for path in folder.iterdir()) == [
            "config.json",
            "rank0.safetensors",
            "rank1.safetensors",
        ]
        config = content(folder / "config.json")
        assert (config["architecture"], config["dtype"]) == ("LlamaForCausalLM", "float16")
        assert (config["num_attention_heads"], config["num_key_value_heads"]) == (4, 2)
        assert config["mapping"]["world_size"] == config["mapping"]["tp_size"] == 2
        with (
            safe_open(folder / "rank1.safetensors", "numpy") as rank,
            safe_open(TINY / "model.safetensors", "numpy") as hf,
        ):
            prefix, source = "transformer.layers.1", "model.layers.1"
            qkv = rank.get_tensor(f"{prefix}.attention.qkv.weight")
            parts = [hf.get_tensor(f"{source}.self_attn.{kind}_proj.weight") for kind in "qkv"]
            query, key, value = (part[len(part) // 2 :] for part in parts)
            assert (qkv[:64] == query).all() and (qkv[64:96] == key).all() and (qkv[96:] == value).all()
            gate, up = (hf.get_tensor(f"{source}.mlp.{kind}_proj.weight") for kind in ("gate", "up"))
            assert (rank.get_tensor(f"{prefix}.mlp.fc.weight") == gate[160:]).all()
            assert (rank.get_tensor(f"{prefix}.mlp.gate.weight") == up[160:]).all()
            down = hf.get_tensor(f"{source}.mlp.down_proj.weight")
            assert (rank.get_tensor(f"{prefix}.mlp.proj.weight") == down[:, 160:]).all()
            assert rank.get_tensor("lm_head.weight").shape == (416, 128)

    @pytest.mark.parametrize(
        ("flags", "reason"),
        [
            (("--tp_size", "3"), "--tp_size 3 does not divide the model's num_attention_heads 4"),
            (("--pp_size", "3"), "--pp_size 3 does not divide the model's 2 layers"),
            (("--tp_size", "0"), "must be 1 or more"),
            (("--use_weight_only",), "--use_weight_only: the CPU stand-in doesn't do this"),
            (("--int8_kv_cache", "--load_by_shard"), "--int8_kv_cache: the CPU stand-in"),
        ],
    )
    def test_refuses_what_it_cannot_do(self, tmp_path: Path, flags: tuple[str, ...], reason: str) -> None:
        with pytest.raises(UserError, match=reason):
            converted(TINY, tmp_path / "out", *flags)
        assert not (tmp_path / "out").exists()

    def test_refuses_another_dtype_and_another_versions_flag_as_argparse_does(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        for flags, reason in (
            (("--dtype", "float8"), "invalid choice: 'float8'"),
            (("--use_embedding_sharing",), "unrecognized arguments: --use_embedding_sharing"),
        ):
            with pytest.raises(SystemExit) as ended:
                converted(TINY, tmp_path / "out", *flags)
            assert ended.value.code == 2 and reason in capsys.readouterr().err

    def test_names_what_is_wrong_with_a_checkpoint(self, tmp_path: Path) -> None:
        wrong = {
            "architecture BloomForCausalLM": TINY_BLOOM,
            "nothing/config.json is missing": tmp_path / "nothing",
            r"model.embed_tokens.weight is \[832, 128\], and config.json makes it \[900, 128\]": edited(
                tmp_path / "vocabulary", lambda config: config.update(vocab_size=900)
            ),
            "has no tensor model.layers.2": edited(
                tmp_path / "deep", lambda config: config.update(num_hidden_layers=3)
            ),
            "rope_scaling of type 'yarn'": edited(
                tmp_path / "yarn", lambda config: config.update(rope_scaling={"rope_type": "yarn", "factor": 4})
            ),
            "a quantized checkpoint": edited(
                tmp_path / "quantized", lambda config: config.update(quantization_config={"quant_method": "gptq"})
            ),
        }
        for reason, folder in wrong.items():
            with pytest.raises(UserError, match=reason):
                converted(folder, tmp_path / "out")

    def test_takes_the_place_of_its_own_folder_only(self, tmp_path: Path) -> None:
        folder = converted(TINY, tmp_path / "out", "--tp_size", "2")
        converted(TINY, folder)
        assert not (folder / "rank1.safetensors").exists()
        (tmp_path / "other").mkdir()
        (tmp_path / "other" / "letter.txt").write_text("dear")
        with pytest.raises(UserError, match="is not empty"):
            converted(TINY, tmp_path / "other")
        assert (tmp_path / "other" / "letter.txt").read_text() == "dear"


class TestTrtllmBuild:
    def test_records_every_flag_of_the_tutorial(self, tmp_path: Path) -> None:
        config = content(built(TINY, tmp_path / "engine", *TUTORIAL) / "config.json")
        build = config["build_config"]
        assert config["version"] == "0.17.0" and config["builder"] == BUILDER
        assert config["pretrained_config"]["hidden_size"] == 128
        assert (build["max_batch_size"], build["max_input_len"], build["max_seq_len"]) == (4, 1024, 2048)
        assert build["kv_cache_type"] == "paged"
        plugins = build["plugin_config"]
        assert plugins["gemm_plugin"] == plugins["gpt_attention_plugin"] == "float16"
        assert plugins["remove_input_padding"] is plugins["context_fmha"] is plugins["paged_kv_cache"] is True

    def test_says_what_it_lowers(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        engine = built(
            TINY, tmp_path / "engine", "--max_batch_size", "1", "--max_seq_len", "64", "--max_input_len", "100"
        )
        output = capsys.readouterr().out
        assert "max_input_len is 100, lowered to max_seq_len 64" in output
        assert "max_num_tokens is 8192, lowered to all that a batch can have, 64" in output
        assert read_engine(engine).limits.max_num_tokens == 64

    def test_refuses_a_flag_that_its_version_has_not(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
    ) -> None:
        with pytest.raises(SystemExit):
            trtllm_build.main(["--checkpoint_dir", str(tmp_path), "--use_custom_all_reduce", "enable"])
        assert "unrecognized arguments: --use_custom_all_reduce" in capsys.readouterr().err
        monkeypatch.setenv("TRTLLM_STAND_IN_VERSION", "0.12.0")
        with pytest.raises(SystemExit):
            trtllm_build.main(["--checkpoint_dir", str(tmp_path), "--kv_cache_type", "paged"])
        assert "unrecognized arguments: --kv_cache_type" in capsys.readouterr().err

    def test_refuses_what_is_no_checkpoint_of_tensorrt_llms(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"Run convert_checkpoint\.py first"):
            trtllm_build.main(["--checkpoint_dir", str(TINY), "--output_dir", str(tmp_path / "out")])
        half = converted(TINY, tmp_path / "half", "--tp_size", "2")
        (half / "rank1.safetensors").unlink()
        with pytest.raises(UserError, match=r"rank1\.safetensors is missing, though config\.json has 2 ranks"):
            trtllm_build.main(["--checkpoint_dir", str(half), "--output_dir", str(tmp_path / "out")])
        assert not (tmp_path / "out").exists()


class TestReadEngine:
    def test_refuses_another_version(self, tmp_path: Path) -> None:
        engine = built(TINY, tmp_path / "engine")
        assert read_engine(engine, "0.17.0.post1").version == "0.17.0"
        with pytest.raises(UserError, match=r"built by TensorRT-LLM 0\.17\.0, and this server has 0\.16\.0"):
            read_engine(engine, "0.16.0")

    def test_refuses_a_real_engine_a_missing_rank_and_a_checkpoint(self, tmp_path: Path) -> None:
        engine = built(TINY, tmp_path / "engine", convert=("--tp_size", "2"))
        with pytest.raises(UserError, match="it is not an engine's"):
            read_engine(tmp_path / "engine-checkpoint")
        (engine / "rank0.engine").write_bytes(b"ftrt" + b"\xff" * 100)
        with pytest.raises(UserError, match="a TensorRT engine needs a GPU"):
            read_engine(engine)
        (engine / "rank0.engine").unlink()
        with pytest.raises(UserError, match=r"has \['rank1\.engine'\]"):
            read_engine(engine)


class TestTritonImport:
    def imported(self, folder: Path, *arguments: str) -> None:
        command = ["import", "-m", "llama-2-7b", "--backend", "tensorrtllm", "--repo", str(folder / "models")]
        triton_import.main([*command, *arguments])

    @pytest.fixture(autouse=True)
    def engines(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("ENGINE_DEST_PATH", str(tmp_path / "engines"))

    def test_writes_the_four_models_and_engine_and_tokenizer(
        self, tmp_path: Path, capsys: pytest.CaptureFixture[str]
    ) -> None:
        self.imported(tmp_path, "-s", f"hf:{TINY}")
        models = tmp_path / "models"
        names = ["llama-2-7b", "postprocessing", "preprocessing", "tensorrt_llm"]
        assert sorted(path.name for path in models.iterdir()) == names
        assert "├── llama-2-7b/\n│   ├── 1/\n│   │   └── model.py\n│   └── config.pbtxt\n" in capsys.readouterr().out
        engine = tmp_path / "engines" / "llama-2-7b"
        assert {"config.json", "rank0.engine", "tokenizer.json"} <= {path.name for path in engine.iterdir()}
        bls = (models / "llama-2-7b" / "config.pbtxt").read_text()
        assert 'name: "llama-2-7b"' in bls and "decoupled: true" in bls
        assert f'string_value: "{engine}"' in (models / "tensorrt_llm" / "config.pbtxt").read_text()

    def test_uses_an_engine_that_is_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        self.imported(tmp_path, "-s", f"hf:{TINY}")
        shutil.rmtree(tmp_path / "models")
        self.imported(tmp_path, "-s", "hf:nobody/nothing")
        assert "skipping build" in capsys.readouterr().out

    def test_refuses(self, tmp_path: Path) -> None:
        bare = edited(tmp_path / "bare", lambda config: None)
        (bare / "tokenizer.json").unlink()
        (bare / "tokenizer_config.json").unlink()
        (bare / "special_tokens_map.json").unlink()
        for source, reason in (
            (f"local:{TINY}", "an engine is built for hf: sources alone"),
            (f"hf:{bare}", "has no tokenizer"),
        ):
            with pytest.raises(UserError, match=reason):
                self.imported(tmp_path, "-s", source)
        assert not (tmp_path / "models").exists() and not (tmp_path / "engines" / "llama-2-7b").exists()
        self.imported(tmp_path, "-s", f"hf:{TINY}")
        with pytest.raises(UserError, match="Found existing model at"):
            self.imported(tmp_path, "-s", f"hf:{TINY}")
