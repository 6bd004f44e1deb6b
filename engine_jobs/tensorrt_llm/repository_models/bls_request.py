"""The requests that `tensorrt_llm_bls` makes of the other models, from its own request: names and shapes, without Triton."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.tensors import Tensors

TO_PREPROCESSING: Mapping[str, str] = {
    "text_input": "QUERY",
    "decoder_text_input": "DECODER_QUERY",
    "max_tokens": "REQUEST_OUTPUT_LEN",
    "bad_words": "BAD_WORDS_DICT",
    "stop_words": "STOP_WORDS_DICT",
    "embedding_bias_words": "EMBEDDING_BIAS_WORDS",
    "embedding_bias_weights": "EMBEDDING_BIAS_WEIGHTS",
    "end_id": "END_ID",
    "pad_id": "PAD_ID",
    "prompt_table_extra_id": "PROMPT_TABLE_EXTRA_ID",
}

FROM_PREPROCESSING: Mapping[str, str] = {
    "INPUT_ID": "input_ids",
    "REQUEST_INPUT_LEN": "input_lengths",
    "REQUEST_OUTPUT_LEN": "request_output_len",
    "BAD_WORDS_IDS": "bad_words_list",
    "STOP_WORDS_IDS": "stop_words_list",
    "OUT_END_ID": "end_id",
    "OUT_PAD_ID": "pad_id",
}
FROM_PREPROCESSING_WITH: Mapping[str, Mapping[str, str]] = {
    "decoder_text_input": {
        "DECODER_INPUT_ID": "decoder_input_ids",
        "REQUEST_DECODER_INPUT_LEN": "decoder_input_lengths",
    },
    "embedding_bias_words": {"EMBEDDING_BIAS": "embedding_bias"},
    "prompt_table_extra_id": {"OUT_PROMPT_TABLE_EXTRA_IDS": "prompt_table_extra_ids"},
}
"""What comes of an input that not every request has."""

TO_ENGINE: Mapping[str, str] = {
    "top_k": "runtime_top_k",
    "top_p": "runtime_top_p",
    "length_penalty": "len_penalty",
    "stream": "streaming",
    **{
        name: name
        for name in (
            *(
                "temperature",
                "repetition_penalty",
                "presence_penalty",
                "frequency_penalty",
                "min_length",
                "random_seed",
            ),
            *(
                "beam_width",
                "num_return_sequences",
                "exclude_input_in_output",
                "prompt_embedding_table",
                "prompt_vocab_size",
            ),
            *("return_log_probs", "return_context_logits", "return_generation_logits", "return_kv_cache_reuse_stats"),
            *("lora_task_id", "lora_weights", "lora_config"),
            # since 0.20, which renames two of the above
            *("min_tokens", "seed", "return_perf_metrics", "guided_decoding_guide_type", "guided_decoding_guide"),
            *("return_num_input_tokens", "return_num_output_tokens"),
        )
    },
}
"""What goes to the engine's model as it is. One value a row, but for the tables of TABLES."""

TABLES = ("prompt_embedding_table", "lora_weights", "lora_config")

REFUSED: Mapping[str, str] = {
    **dict.fromkeys(
        ("image_input", "image_bytes_input", "image_url_input", "video_bytes_input"), "this model reads text only"
    ),
    "num_draft_tokens": "there is no draft model; leave it out",
    "use_draft_logits": "there is no draft model; leave it out",
}


def request_rows(tensors: Tensors, *, decoupled: bool) -> list[dict[str, NDArray[Any]]]:
    """A request of B rows as B requests of one row each. Raises UserError for what this model does not do."""
    for name, reason in REFUSED.items():
        if name in tensors and np.any(tensors[name]):
            raise UserError(f"{name}: {reason}")
    if "text_input" not in tensors:
        raise UserError("text_input is missing")
    if not decoupled and "stream" in tensors and np.any(tensors["stream"]):
        raise UserError("stream: this model answers at once; serve it with decoupled_mode true to stream")
    rows = len(tensors["text_input"])
    for name, tensor in tensors.items():
        if not tensor.ndim or len(tensor) != rows:
            raise UserError(f"{name} has shape {list(tensor.shape)}, and there are {rows} prompts; it needs a row each")
    return [{name: tensor[index : index + 1] for name, tensor in tensors.items()} for index in range(rows)]


def preprocessing_inputs(row: Tensors) -> dict[str, NDArray[Any]]:
    """A row's tensors under the names of `preprocessing`, as [1, n]."""
    return {TO_PREPROCESSING[name]: tensor.reshape(1, -1) for name, tensor in row.items() if name in TO_PREPROCESSING}


def preprocessing_outputs(row: Tensors) -> Mapping[str, str]:
    """Which of the outputs of `preprocessing` the engine's model gets, and their names there."""
    names = dict(FROM_PREPROCESSING)
    for given, outputs in FROM_PREPROCESSING_WITH.items():
        if given in row:
            names |= outputs
    return names


def engine_inputs(row: Tensors, prepared: Tensors) -> dict[str, NDArray[Any]]:
    """A row's tensors under the names of the engine's model: those of `preprocessing` that hold something, and the rest as they are."""
    names = preprocessing_outputs(row)
    made = {names[name]: tensor for name, tensor in prepared.items() if name in names and tensor.size}
    for name, tensor in row.items():
        if name in TO_ENGINE:
            made[TO_ENGINE[name]] = tensor if name in TABLES else tensor.reshape(1, 1)
    return made


def stop_inputs() -> dict[str, NDArray[Any]]:
    """The tensors of a request that ends the running one of the same id: how TensorRT-LLM's backend is told of a cancellation."""
    one = np.ones((1, 1), dtype=np.int32)
    return {"input_ids": one, "input_lengths": one, "request_output_len": one, "stop": np.ones((1, 1), dtype=np.bool_)}


def joined(rows: Sequence[Mapping[str, NDArray[Any]]]) -> dict[str, NDArray[Any]]:
    """The rows' answers as one answer, short ones filled up with zeros. A tensor that not all rows have is left out."""
    if len(rows) == 1:
        return dict(rows[0])
    names = [name for name in rows[0] if all(name in row for row in rows)]
    return {name: _stacked([row[name] for row in rows]) for name in names}


def _stacked(tensors: Sequence[NDArray[Any]]) -> NDArray[Any]:
    if len({tensor.shape[1:] for tensor in tensors}) == 1:
        return np.concatenate(tensors)
    shape = tuple(max(sizes) for sizes in zip(*(tensor.shape[1:] for tensor in tensors), strict=True))
    padded = [
        np.pad(t, [(0, 0), *((0, size - have) for size, have in zip(shape, t.shape[1:], strict=True))]) for t in tensors
    ]
    return np.concatenate(padded)
