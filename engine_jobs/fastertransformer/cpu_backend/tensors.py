"""Between Triton's tensors, by the names and types of FasterTransformer's config.pbtxt, and a generation's request and answer."""

from collections.abc import Mapping
from typing import Any

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.cpu_backend.generation import Answer, Choice, Request
from engine_jobs.fastertransformer.layout import WeightsFolder

Tensors = Mapping[str, NDArray[Any]]

PROMPT_LEARNING = (
    "prompt_learning_task_name_ids",
    "request_prompt_embedding",
    "request_prompt_lengths",
    "request_prompt_type",
)


def read_request(tensors: Tensors, folder: WeightsFolder) -> Request:
    """Raises UserError that names the tensor that is missing, of a wrong shape, or beyond what the stand-in does."""
    given = [name for name in PROMPT_LEARNING if name in tensors]
    if given:
        raise UserError(
            f"{', '.join(given)}: the CPU stand-in has no prompt learning; leave it out or use a GPU stack."
        )
    for name in ("input_ids", "input_lengths", "request_output_len"):
        if name not in tensors:
            raise UserError(f"{name} is missing.")
    ids = tensors["input_ids"]
    if ids.ndim != 2 or not ids.shape[1]:
        raise UserError(f"input_ids has shape {list(ids.shape)}; it must be [rows, tokens].")
    rows = len(ids)
    one = _Rows(tensors, rows)
    beams = one.integers("beam_width", 1)
    if len(set(beams)) > 1:
        raise UserError(f"beam_width must be the same in every row, and is {sorted(set(beams))}.")
    top_k, top_p = one.integers("runtime_top_k", 0), one.numbers("runtime_top_p", 0.0)
    temperature, repetition = one.numbers("temperature", 1.0), one.numbers("repetition_penalty", 1.0)
    for name, values in (("temperature", temperature), ("repetition_penalty", repetition)):
        if min(values) <= 0:
            raise UserError(f"{name} is {min(values)}, and must be above 0.")
    decay, least = one.numbers("top_p_decay", 1.0), one.numbers("top_p_min", 1e-6)
    reset, seed = one.integers("top_p_reset_ids", -1), one.integers("random_seed", 0)
    len_penalty, diversity = one.numbers("len_penalty", 0.0), one.numbers("beam_search_diversity_rate", 0.0)
    stop_words, bad_words = one.words("stop_words_list"), one.words("bad_words_list")
    return Request(
        ids=ids.astype(np.int64),
        lengths=np.array(one.integers("input_lengths", ids.shape[1])),
        output_lengths=np.array(one.integers("request_output_len", 0)),
        end_ids=np.array(one.integers("end_id", folder.end_id)),
        beams=beams[0],
        choices=[
            Choice(
                top_k=top_k[row],
                top_p=top_p[row],
                temperature=temperature[row],
                repetition_penalty=repetition[row],
                random_seed=seed[row],
                top_p_decay=decay[row],
                top_p_min=least[row],
                top_p_reset_id=reset[row],
                len_penalty=len_penalty[row],
                diversity_rate=diversity[row],
                stop_words=stop_words[row],
                bad_words=bad_words[row],
            )
            for row in range(rows)
        ],
    )


def answer_tensors(answer: Answer, tensors: Tensors) -> dict[str, NDArray[Any]]:
    """FasterTransformer's output tensors by name: log probabilities and embeddings only where the request asks for them."""
    beams = answer.sequence_lengths.shape[1]
    lengths = np.repeat(tensors["input_lengths"].reshape(-1, 1), beams, axis=1)
    made: dict[str, NDArray[Any]] = {
        "output_ids": answer.ids,
        "sequence_length": answer.sequence_lengths,
        "response_input_lengths": lengths.astype(np.int32),
    }
    if _asked(tensors, "is_return_log_probs"):
        made |= {"cum_log_probs": answer.cum_log_probs, "output_log_probs": answer.output_log_probs}
    if _asked(tensors, "is_return_context_embeddings"):
        made["context_embeddings"] = answer.context_embeddings
    return made


def _asked(tensors: Tensors, name: str) -> bool:
    return name in tensors and bool(tensors[name].reshape(-1)[0])


class _Rows:
    """Reads optional tensors that hold one value a row."""

    def __init__(self, tensors: Tensors, rows: int) -> None:
        self._tensors = tensors
        self._rows = rows

    def integers(self, name: str, default: int) -> list[int]:
        return [int(value) for value in self._values(name, default)]

    def numbers(self, name: str, default: float) -> list[float]:
        values = [float(value) for value in self._values(name, default)]
        if not all(np.isfinite(values)):
            raise UserError(f"{name} is not a finite number.")
        return values

    def _values(self, name: str, default: float) -> list[Any]:
        if name not in self._tensors:
            return [default] * self._rows
        flat = self._tensors[name].reshape(-1)
        if len(flat) != self._rows:
            raise UserError(f"{name} has {len(flat)} values for {self._rows} rows; it takes one a row.")
        return list(flat)

    def words(self, name: str) -> list[tuple[tuple[int, ...], ...]]:
        """For each row its words as token ids. A row is [2, L]: the words' tokens on end, and where each word ends (-1: none)."""
        if name not in self._tensors:
            return [()] * self._rows
        table = self._tensors[name]
        if table.ndim != 3 or len(table) != self._rows or table.shape[1] != 2:
            raise UserError(f"{name} has shape {list(table.shape)}; it must be [{self._rows}, 2, length].")
        return [self._split(name, ids.tolist(), ends.tolist()) for ids, ends in table]

    @staticmethod
    def _split(name: str, ids: list[int], ends: list[int]) -> tuple[tuple[int, ...], ...]:
        words, start = [], 0
        for end in ends:
            if end < 0:
                break
            if not start < end <= len(ids):
                raise UserError(f"{name}: the words' ends {ends} must rise and stay within {len(ids)} tokens.")
            words.append(tuple(ids[start:end]))
            start = end
        return tuple(words)
