"""What a preview says of limits that contradict each other, of a model that does not fit, and of a split that can't be."""

from collections.abc import Mapping
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.limits import check_limits
from engine_jobs.tensorrt_llm.memory import check_memory, estimate_memory
from engine_jobs.tensorrt_llm.model_shape import ModelShape, model_shape
from engine_jobs.tensorrt_llm.versions import pinned_release
from stacks.gpus import gpu
from tests.unit.test_trtllm_flags import TUTORIAL_BUILD

LLAMA_31_8B: dict[str, Any] = {
    "architectures": ["LlamaForCausalLM"],
    "num_hidden_layers": 32,
    "hidden_size": 4096,
    "intermediate_size": 14336,
    "num_attention_heads": 32,
    "num_key_value_heads": 8,
    "vocab_size": 128256,
    "max_position_embeddings": 131072,
    "tie_word_embeddings": False,
    "torch_dtype": "bfloat16",
}
SHAPE = model_shape(LLAMA_31_8B, "meta-llama/Llama-3.1-8B-Instruct")
TUTORIAL_SERVING: dict[str, Any] = {
    "triton_max_batch_size": 64,
    "max_beam_width": 1,
    "max_tokens_in_paged_kv_cache": 2560,
    "max_attention_window_size": 2560,
    "kv_cache_free_gpu_mem_fraction": 0.5,
}
SOUND: dict[str, Any] = {"max_batch_size": 8, "max_input_len": 2048, "max_seq_len": 4096, "max_num_tokens": 4096}


def plan(
    build: Mapping[str, Any] = SOUND,
    serving: Mapping[str, Any] | None = None,
    *,
    convert: Mapping[str, Any] | None = None,
    triton: str = "25.01",
    tensor_parallel: int = 1,
    pipeline_parallel: int = 1,
) -> EnginePlan:
    return EnginePlan(
        release=pinned_release(triton, None),
        convert={"dtype": "float16"} if convert is None else convert,
        build=build,
        serving={"triton_max_batch_size": 8} if serving is None else serving,
        tensor_parallel=tensor_parallel,
        pipeline_parallel=pipeline_parallel,
    )


def refused(made: EnginePlan, shape: ModelShape | None = None) -> str:
    with pytest.raises(UserError) as error:
        check_limits(made, shape)
    return str(error.value)


class TestTheTutorialsContradictions:
    @pytest.mark.parametrize(
        "numbers",
        [
            "build.max_batch_size 1 is below serving.triton_max_batch_size 64",
            "build.max_beam_width 3 is above serving.max_beam_width 1",
            "build.max_num_tokens 4096 is below build.max_input_len 16384 without chunked context",
            "serving.max_tokens_in_paged_kv_cache 2560 is below build.max_seq_len 16384",
            "serving.max_attention_window_size 2560 is below build.max_seq_len 16384",
            "build.max_input_len 16384 equals build.max_seq_len 16384",
            "build.reduce_fusion enable and tensorParallelSize 1",
        ],
    )
    def test_are_warnings_with_both_numbers(self, numbers: str) -> None:
        warnings = check_limits(plan(TUTORIAL_BUILD, TUTORIAL_SERVING), SHAPE)
        assert len(warnings) == 7
        (warning,) = (each for each in warnings if numbers in each)
        assert ": " in warning and "; " in warning  # what follows from it, and what to do

    def test_are_gone_once_put_right(self) -> None:
        build = {
            **TUTORIAL_BUILD,
            "max_batch_size": 64,
            "max_beam_width": 1,
            "max_input_len": 8192,
            "reduce_fusion": "disable",
        }
        serving = {"triton_max_batch_size": 64, "enable_chunked_context": True}
        assert check_limits(plan(build, serving), SHAPE) == ()

    def test_chunked_context_needs_an_engine_for_it(self) -> None:
        build = {**SOUND, "max_num_tokens": 1024, "use_paged_context_fmha": "disable"}
        warnings = check_limits(plan(build, {"triton_max_batch_size": 8, "enable_chunked_context": True}), SHAPE)
        assert len(warnings) == 2
        assert "set build.use_paged_context_fmha enable, or raise max_num_tokens to 2048" in warnings[0]


class TestDefaultsCount:
    def test_an_older_default_is_below_tritons(self) -> None:
        build = {key: value for key, value in SOUND.items() if key != "max_batch_size"}
        serving = {"triton_max_batch_size": 512}
        assert check_limits(plan(build, serving), SHAPE) == ()  # 2048 since 0.14
        (warning,) = check_limits(plan(build, serving, triton="24.08"), SHAPE)
        assert "build.max_batch_size 256 is below serving.triton_max_batch_size 512" in warning

    def test_the_models_own_length(self) -> None:
        build = {"max_batch_size": 8, "max_num_tokens": 8192, "max_input_len": 2048}
        serving = {"triton_max_batch_size": 8, "max_tokens_in_paged_kv_cache": 4096}
        (warning,) = check_limits(plan(build, serving), SHAPE)
        assert "max_tokens_in_paged_kv_cache 4096 is below build.max_seq_len 131072" in warning
        assert check_limits(plan(build, serving), None) == ()

    def test_a_type_that_the_checkpoint_decides(self) -> None:
        build = {**SOUND, "gemm_plugin": "float16"}
        (warning,) = check_limits(plan(build, convert={}), SHAPE)
        assert "build.gemm_plugin float16 and the engine's type bfloat16" in warning
        assert check_limits(plan(build), SHAPE) == ()


class TestWhatCannotBeIsRefused:
    @pytest.mark.parametrize(
        ("build", "serving", "said"),
        [
            ({"max_input_len": 4097}, {}, "build.max_input_len 4097 is above build.max_seq_len 4096"),
            ({"max_beam_width": 1}, {"max_beam_width": 4}, "serving.max_beam_width 4 is above build.max_beam_width 1"),
            ({"kv_cache_type": "continuous"}, {}, "in-flight batching needs kv_cache_type paged"),
            ({"remove_input_padding": "disable"}, {}, "in-flight batching needs remove_input_padding enable"),
            ({"multiple_profiles": "enable", "opt_num_tokens": 64}, {}, "exclude each other"),
        ],
    )
    def test_with_both_sides(self, build: dict[str, Any], serving: dict[str, Any], said: str) -> None:
        assert said in refused(plan({**SOUND, **build}, {"triton_max_batch_size": 8, **serving}))

    def test_batching_that_is_not_in_flight_needs_less(self) -> None:
        serving = {"triton_max_batch_size": 8, "batching_strategy": "V1"}
        assert check_limits(plan({**SOUND, "remove_input_padding": "disable"}, serving), None) == ()


class TestMemory:
    def test_the_weights_are_counted(self) -> None:
        estimate = estimate_memory(plan(), SHAPE, gpu("nvidia-l4", "gpu"))
        assert estimate is not None
        assert estimate.weights == 8_030_261_248 * 2  # what the Hub says of Llama 3.1 8B
        assert estimate.kv_token == 2 * 32 * 8 * 128 * 2

    def test_split_and_quantized(self) -> None:
        card = gpu("nvidia-l4", "gpu")
        whole = estimate_memory(plan(), SHAPE, card)
        half = estimate_memory(plan(tensor_parallel=2), SHAPE, card)
        sixteen = estimate_memory(plan(tensor_parallel=16), SHAPE, card)
        int4 = estimate_memory(
            plan(convert={"use_weight_only": True, "weight_only_precision": "int4", "int8_kv_cache": True}), SHAPE, card
        )
        assert whole and half and sixteen and int4
        assert half.kv_token == whole.kv_token // 2
        assert sixteen.kv_token == whole.kv_token // 8  # a KV head is on two ranks
        assert 0.5 < half.weights / whole.weights < 0.54  # the embedding is on both
        assert int4.weights < 0.4 * whole.weights and int4.kv_token == whole.kv_token // 2

    def test_a_model_that_does_not_fit(self) -> None:
        with pytest.raises(UserError) as error:
            check_memory(plan(), SHAPE, gpu("nvidia-tesla-t4", "gpu"))
        message = str(error.value)
        assert "does not fit nvidia-tesla-t4" in message and "of 16.0 GB" in message
        assert "tensorParallelSize to 2" in message and "use_weight_only true" in message
        assert "weights" in message and "16.06 GB" in message and "activations" in message and "KV cache" in message

    def test_a_cache_that_does_not_fit(self) -> None:
        build = {**SOUND, "max_seq_len": 131072}
        with pytest.raises(
            UserError, match=r"the KV cache does not fit nvidia-l4: 131072 tokens need 17\.2 GB, and 3\.\d GB"
        ):
            check_memory(plan(build), SHAPE, gpu("nvidia-l4", "gpu"))

    def test_a_full_batch_that_waits(self) -> None:
        serving = {"triton_max_batch_size": 8, "kv_cache_free_gpu_mem_fraction": 0.5}
        (warning,) = check_memory(plan(serving=serving), SHAPE, gpu("nvidia-l4", "gpu"))
        assert "of the longest requests at once, and the limits allow 32768" in warning and "GB" in warning
        assert check_memory(plan(serving=serving), SHAPE, gpu("nvidia-a100-80gb", "gpu")) == ()


class TestASplit:
    def test_that_divides_nothing(self) -> None:
        with pytest.raises(UserError) as error:
            SHAPE.check_split(3, 1)
        assert "tensorParallelSize 3 does not divide the model's 32 attention heads" in str(error.value)
        assert "tensorParallelSize may be 1, 2, 4, 8, 16, 32" in str(error.value)

    def test_with_more_ranks_than_kv_heads(self) -> None:
        SHAPE.check_split(16, 2)

    def test_with_more_stages_than_layers(self) -> None:
        with pytest.raises(UserError, match="pipelineParallelSize 33 is above the model's 32 layers"):
            SHAPE.check_split(1, 33)


class TestAnotherModel:
    def test_is_sent_to_a_recipe_that_takes_it(self) -> None:
        with pytest.raises(UserError, match=r"is a BloomForCausalLM.*`triton-python` serves the others"):
            model_shape({"architectures": ["BloomForCausalLM"]}, "bigscience/bloom-560m")

    def test_without_its_dimensions(self) -> None:
        config = {key: value for key, value in LLAMA_31_8B.items() if key != "hidden_size"}
        with pytest.raises(UserError, match=r"config\.json has hidden_size None"):
            model_shape(config, "m")
