"""A flag is written under its own name, and refused with the version that dropped it and what to write instead."""

import re
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm import flags
from engine_jobs.tensorrt_llm.templates import MODELS, TEMPLATES, filled_variables
from engine_jobs.tensorrt_llm.versions import Release, pinned_release, releases

DESCRIBED = ("0.12.0", "0.16.0", "0.17.0", "0.20.0", "1.0.0")

TUTORIAL_BUILD: dict[str, Any] = {
    "gemm_plugin": "float16",
    "max_batch_size": 1,
    "max_num_tokens": 4096,
    "max_input_len": 16384,
    "max_seq_len": 16384,
    "max_beam_width": 3,
    "reduce_fusion": "enable",
    "multiple_profiles": "enable",
    "use_paged_context_fmha": "enable",
}
LLAMA_2_BUILD: dict[str, Any] = {
    "remove_input_padding": "enable",
    "gpt_attention_plugin": "float16",
    "context_fmha": "enable",
    "gemm_plugin": "float16",
    "paged_kv_cache": "enable",
    "max_batch_size": 4,
}


def release(version: str) -> Release:
    return next(r for r in releases().values() if r.tensorrt_llm == version)


def refusal(table: flags.Table, values: dict[str, Any], version: str) -> str:
    with pytest.raises(UserError) as error:
        flags.check(table, values, release(version))
    return str(error.value)


class TestTheTutorialsFlagsAreAccepted:
    @pytest.mark.parametrize("version", DESCRIBED)
    def test_by_every_version(self, version: str) -> None:
        assert flags.check("build", TUTORIAL_BUILD, release(version)) == ()
        assert flags.check("convert", {"dtype": "float16"}, release(version)) == ()
        flags.check("build", LLAMA_2_BUILD, release(version))

    def test_in_the_commands_own_words_and_order(self) -> None:
        words = flags.command_line("build", TUTORIAL_BUILD, release("0.17.0"))
        assert " ".join(words) == (
            "--gemm_plugin float16 --max_batch_size 1 --max_num_tokens 4096 --max_input_len 16384 --max_seq_len 16384 "
            "--max_beam_width 3 --reduce_fusion enable --multiple_profiles enable --use_paged_context_fmha enable"
        )

    def test_switches_and_lists(self) -> None:
        values: dict[str, Any] = {
            "strip_plan": True,
            "weight_sparsity": False,
            "lora_target_modules": ("attn_q", "attn_v"),
        }
        assert flags.check("build", values, release("0.17.0")) == ()
        words = flags.command_line("build", values, release("0.17.0"))
        assert words == ("--strip_plan", "--lora_target_modules", "attn_q", "attn_v")


class TestARefusalNamesTheVersionAndTheWayOut:
    @pytest.mark.parametrize(
        ("table", "name", "value", "dropped", "instead"),
        [
            ("build", "max_output_len", 100, "0.12.0", "max_seq_len"),
            ("build", "use_custom_all_reduce", "enable", "0.12.0", "run time"),
            ("build", "tp_size", 2, "0.12.0", "tensorParallelSize"),
            ("build", "builder_opt", 3, "0.14.0", "leave it out"),
            ("build", "enable_xqa", "enable", "0.16.0", "XQA"),
            ("convert", "use_embedding_sharing", True, "0.16.0", "automatically"),
            ("serving", "tokenizer_type", "auto", "0.9.0", "tokenizer"),
        ],
    )
    def test_dropped(self, table: flags.Table, name: str, value: Any, dropped: str, instead: str) -> None:
        message = refusal(table, {name: value}, "0.17.0")
        assert f"{table}.{name}: dropped in TensorRT-LLM {dropped}, and 0.17.0 is pinned" in message
        assert instead in message

    def test_kept_by_the_older_version(self) -> None:
        assert flags.check("build", {"builder_opt": 3, "enable_xqa": "enable"}, release("0.12.0")) == ()
        assert flags.check("convert", {"use_embedding_sharing": True}, release("0.12.0")) == ()

    def test_not_there_yet(self) -> None:
        message = refusal("build", {"kv_cache_type": "paged"}, "0.12.0")
        assert "of TensorRT-LLM 0.12.0 has it not yet; of the versions known here 0.16.0 has it first" in message

    def test_superseded_is_a_warning(self) -> None:
        (warning,) = flags.check("build", {"paged_kv_cache": "enable"}, release("0.17.0"))
        assert "superseded in TensorRT-LLM 0.16.0" in warning and "kv_cache_type: paged" in warning
        assert flags.check("build", {"paged_kv_cache": "enable"}, release("0.12.0")) == ()

    def test_renamed_variable(self) -> None:
        assert "write multimodal_model_path" in refusal("serving", {"visual_model_path": "/x"}, "0.20.0")

    def test_unknown_lists_the_known(self) -> None:
        assert "max_batch_size" in refusal("build", {"max_batchsize": 1}, "0.17.0")

    def test_what_the_recipe_sets(self) -> None:
        assert "build.output_dir: not for you to set" in refusal("build", {"output_dir": "/x"}, "0.17.0")

    def test_all_at_once(self) -> None:
        assert len(refusal("build", {"max_output_len": 1, "enable_xqa": "enable"}, "0.17.0").splitlines()) == 2


class TestValuesAreChecked:
    @pytest.mark.parametrize(
        ("table", "name", "value", "wanted"),
        [
            ("convert", "dtype", "fp16", "one of auto, float16, bfloat16, float32"),
            ("build", "gemm_plugin", "int4", "one of auto"),
            ("build", "max_batch_size", 0, "a whole number of at least 1"),
            ("build", "max_batch_size", "8", "a whole number"),
            ("build", "max_batch_size", True, "a whole number"),
            ("build", "context_fmha", True, "enable or disable"),
            ("build", "strip_plan", "enable", "true or false"),
            ("serving", "kv_cache_free_gpu_mem_fraction", 1.5, "1 at most"),
            ("serving", "decoupled_mode", "False", "true or false"),
        ],
    )
    def test_refused(self, table: flags.Table, name: str, value: Any, wanted: str) -> None:
        message = refusal(table, {name: value}, "0.17.0")
        assert f"{table}.{name}: " in message and wanted in message

    def test_as_the_version_has_it(self) -> None:
        assert flags.check("build", {"gemm_plugin": "nvfp4", "use_fused_mlp": "enable"}, release("0.17.0")) == ()
        message = refusal("build", {"gemm_plugin": "nvfp4", "use_fused_mlp": "enable"}, "0.12.0")
        assert "build.gemm_plugin" in message and "build.use_fused_mlp: 'enable' is not true or false" in message


class TestVersionsArePinnedTogether:
    def test_the_image_of_a_release(self) -> None:
        assert pinned_release("25.01", None).tensorrt_llm == "0.17.0"
        assert pinned_release("25.01", "0.17.0.post1").image == "triton-trtllm-25.01"

    def test_a_mismatch_names_both(self) -> None:
        with pytest.raises(
            UserError, match=r"Triton 25\.01 has TensorRT-LLM 0\.17\.0 .* not 0\.12\.0.*tritonVersion 24\.08"
        ):
            pinned_release("25.01", "0.12.0")

    def test_a_release_that_is_not_described(self) -> None:
        with pytest.raises(
            UserError, match=r"TensorRT-LLM 0\.19\.0 \(Triton 25\.05\) are not described.*25\.06 \(0\.20\.0\)"
        ):
            pinned_release("25.05", None)

    def test_an_unknown_release(self) -> None:
        with pytest.raises(UserError, match=r"'23\.05' is not in releases\.toml; supported: 24\.08"):
            pinned_release("23.05", None)


class TestTheTablesFitTogether:
    def test_every_variable_of_a_template_is_known_and_every_known_one_used(self) -> None:
        used = {
            name
            for model in MODELS
            for name in re.findall(r"\$\{(\w+)\}", (TEMPLATES / f"{model}.toml").read_text(encoding="utf-8"))
        }
        structural = {"triton_max_batch_size", "max_queue_delay_microseconds", "max_queue_size", "tokenizer_type"}
        assert used | structural == flags.flags("serving").keys()

    @pytest.mark.parametrize("version", DESCRIBED)
    def test_what_a_check_asks_for_has_a_default(self, version: str) -> None:
        for name in (
            "max_batch_size",
            "max_input_len",
            "max_beam_width",
            "max_num_tokens",
            "use_paged_context_fmha",
            "dtype",
        ):
            assert flags.default(name, version)
        filled = filled_variables({}, version, {})
        assert filled["triton_max_batch_size"] == "64" and filled["decoupled_mode"] == "false"
