"""Contradictions among what an engine is built for and how it is served: each names both numbers and what to do."""

from collections.abc import Iterator

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.engine_plan import EnginePlan
from engine_jobs.tensorrt_llm.model_shape import ModelShape
from engine_jobs.tensorrt_llm.versions import version_key


def check_limits(plan: EnginePlan, shape: ModelShape | None) -> tuple[str, ...]:
    """What works, but hardly as meant. Raises UserError, a line each, for what neither builds nor loads. `shape`: None where the
    model's config.json was not read."""
    problems = [*_impossible(plan)]
    if problems:
        raise UserError("\n".join(problems))
    return (*_batches(plan), *_lengths(plan, shape), *_cache(plan, shape), *_types(plan, shape))


def _impossible(plan: EnginePlan) -> Iterator[str]:
    max_input_len, max_seq_len = plan.built("max_input_len"), plan.build.get("max_seq_len")
    if isinstance(max_seq_len, int) and max_input_len > max_seq_len:
        yield (
            f"build.max_input_len {max_input_len} is above build.max_seq_len {max_seq_len}, prompt and answer together; "
            "raise max_seq_len or lower max_input_len"
        )
    beams, served_beams = plan.built("max_beam_width"), plan.served("max_beam_width")
    if served_beams > beams:
        yield (
            f"serving.max_beam_width {served_beams} is above build.max_beam_width {beams}: the engine would not load; set both alike"
        )
    if plan.on_both("multiple_profiles", "opt_num_tokens") and version_key(plan.release.described) >= (0, 16):
        yield (
            f"build.opt_num_tokens {plan.build['opt_num_tokens']} and build.multiple_profiles enable exclude each other; leave one out"
        )
    if plan.in_flight:
        batching = plan.served("batching_strategy")
        for name, good in (
            ("remove_input_padding", "enable"),
            ("paged_kv_cache", "enable"),
            ("kv_cache_type", "paged"),
        ):
            value = plan.build.get(name, good)
            if value != good:
                yield f"build.{name} {value} and serving.batching_strategy {batching}: in-flight batching needs {name} {good}"
        if plan.build.get("gpt_attention_plugin") == "disable":
            yield (
                f"build.gpt_attention_plugin disable and serving.batching_strategy {batching}: in-flight batching needs the plugin; "
                "write auto"
            )


def _batches(plan: EnginePlan) -> Iterator[str]:
    built, served = plan.built("max_batch_size"), plan.served("triton_max_batch_size")
    if built < served:
        yield (
            f"build.max_batch_size {built} is below serving.triton_max_batch_size {served}: Triton hands on {served} requests at once "
            f"and the engine runs {built} of them, the others wait; build for {served}, or lower triton_max_batch_size to {built}"
        )
    beams, served_beams = plan.built("max_beam_width"), plan.served("max_beam_width")
    if beams > served_beams:
        yield (
            f"build.max_beam_width {beams} is above serving.max_beam_width {served_beams}: no request may ask for more than "
            f"{served_beams} beam{'s' if served_beams > 1 else ''}, and the engine is made for {beams}; set both alike"
        )


def _lengths(plan: EnginePlan, shape: ModelShape | None) -> Iterator[str]:
    tokens, max_input_len = plan.built("max_num_tokens"), plan.built("max_input_len")
    max_seq_len = plan.max_seq_len(shape.max_positions if shape else None)
    if tokens < max_input_len and not plan.chunked_context:
        needs = [] if plan.on("use_paged_context_fmha") else ["build.use_paged_context_fmha enable"]
        needs += [] if plan.served("enable_chunked_context") is True else ["serving.enable_chunked_context true"]
        yield (
            f"build.max_num_tokens {tokens} is below build.max_input_len {max_input_len} without chunked context: a prompt of more than "
            f"{tokens} tokens is refused; set {' and '.join(needs)}, or raise max_num_tokens to {max_input_len}"
        )
    if plan.served("enable_chunked_context") is True and not plan.on("use_paged_context_fmha"):
        yield (
            "serving.enable_chunked_context true needs an engine with build.use_paged_context_fmha enable, and it is disable; set it"
        )
    if plan.served("enable_kv_cache_reuse") is True and not plan.on("use_paged_context_fmha"):
        yield "serving.enable_kv_cache_reuse true needs an engine with build.use_paged_context_fmha enable, and it is disable; set it"
    if max_seq_len is not None and max_input_len == max_seq_len:
        yield (
            f"build.max_input_len {max_input_len} equals build.max_seq_len {max_seq_len}, prompt and answer together: the longest prompt "
            "leaves no token for an answer; raise max_seq_len by the longest answer"
        )
    if shape and shape.max_positions and max_seq_len is not None and max_seq_len > shape.max_positions:
        yield (
            f"build.max_seq_len {max_seq_len} is above the model's max_position_embeddings {shape.max_positions}: what lies beyond is "
            f"not to be trusted; lower it to {shape.max_positions}"
        )


def _cache(plan: EnginePlan, shape: ModelShape | None) -> Iterator[str]:
    max_seq_len = plan.max_seq_len(shape.max_positions if shape else None)
    if max_seq_len is None:
        return
    room, window = plan.served("max_tokens_in_paged_kv_cache"), plan.served("max_attention_window_size")
    if room is not None and room < max_seq_len:
        yield (
            f"serving.max_tokens_in_paged_kv_cache {room} is below build.max_seq_len {max_seq_len}: the cache holds {room} tokens for all "
            f"requests together, and one may need {max_seq_len}; leave it out (kv_cache_free_gpu_mem_fraction then sizes the cache), "
            f"or raise it to {max_seq_len} for each request at once"
        )
    if window is not None and window < max_seq_len:
        yield (
            f"serving.max_attention_window_size {window} is below build.max_seq_len {max_seq_len}: a token sees the last {window} alone, "
            "and longer texts come out wrong unless the model was trained so; leave it out"
        )


def _types(plan: EnginePlan, shape: ModelShape | None) -> Iterator[str]:
    if plan.built_on("reduce_fusion") and plan.tensor_parallel == 1:
        yield (
            "build.reduce_fusion enable and tensorParallelSize 1: it joins kernels after an all-reduce, and one GPU makes none; "
            "leave it out"
        )
    if shape is None and plan.convert.get("dtype", "auto") == "auto":
        return
    computed = plan.data_type(shape.dtype if shape else "")
    for name in ("gemm_plugin", "gpt_attention_plugin"):
        plugin = plan.build.get(name)
        if plugin in ("float16", "bfloat16", "float32") and plugin != computed:
            yield f"build.{name} {plugin} and the engine's type {computed} (convert.dtype) differ; write auto, or the same type"
