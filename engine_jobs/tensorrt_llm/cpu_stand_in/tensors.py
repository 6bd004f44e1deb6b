"""Between the tensors of inflight_batcher_llm's `tensorrt_llm` model (v0.17.0, and the names that 0.20 gave two of them) and requests.

One request may hold several rows B. Scalars arrive as [B]; lists of words as [B, 2, n]: their tokens on end, and where each word
ends (-1: none). Letters: K beams, N tokens of an answer, S of a prompt, V vocabulary.
"""

from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Beam, Generation, Request
from engine_jobs.tensorrt_llm.cpu_stand_in.sampling import Sampling, Words

Tensors = Mapping[str, NDArray[Any]]

UNDONE: Final = (
    "draft_input_ids", "draft_logits", "encoder_input_features", "prompt_embedding_table", "lora_task_id",
    "lora_weights", "cross_attention_mask", "context_phase_params", "guided_decoding_guide", "mrope_rotary_cos_sin",
)  # fmt: skip
NEUTRAL: Final = {"num_return_sequences": 1, "runtime_top_p_decay": 1, "prompt_vocab_size": 0}
"""Tensors whose effect the stand-in has not, and the value that asks for none. `decoder_input_ids` is not among them: preprocessing
always gives it, and only an encoder-decoder reads it."""


class Rows:
    """Reads tensors that hold one value a row."""

    def __init__(self, tensors: Tensors, rows: int) -> None:
        self._tensors = tensors
        self.rows = rows

    def integers(self, name: str, default: int = 0) -> list[int]:
        return [int(value) for value in self._values(name, default)]

    def numbers(self, name: str, default: float) -> list[float]:
        return [float(value) for value in self._values(name, default)]

    def switches(self, name: str, default: bool = False) -> list[bool]:
        return [bool(value) for value in self._values(name, default)]

    def _values(self, name: str, default: float) -> list[Any]:
        if name not in self._tensors:
            return [default] * self.rows
        flat = self._tensors[name].reshape(-1)
        if len(flat) != self.rows:
            raise UserError(f"{name} has {len(flat)} values for {self.rows} rows; it takes one a row.")
        return list(flat)

    def words(self, name: str, vocabulary: int) -> list[Words]:
        if name not in self._tensors:
            return [()] * self.rows
        table = self._tensors[name]
        if table.ndim != 3 or len(table) != self.rows or table.shape[1] != 2:
            raise UserError(f"{name} has shape {list(table.shape)}; it must be [{self.rows}, 2, length].")
        return [_split(name, ids.tolist(), ends.tolist(), vocabulary) for ids, ends in table]


def read_requests(tensors: Tensors, vocabulary: int) -> list[Request]:
    """A request for each row. Raises UserError that names the tensor that is missing, wrong, or beyond the stand-in."""
    _refuse_undone(tensors)
    for name in ("input_ids", "input_lengths", "request_output_len"):
        if name not in tensors:
            raise UserError(f"{name} is missing.")
    ids = tensors["input_ids"]
    if ids.ndim != 2:
        raise UserError(f"input_ids has shape {list(ids.shape)}; it must be [rows, tokens].")
    rows = Rows(tensors, len(ids))
    lengths = rows.integers("input_lengths")
    prompts = [_prompt(row, length, vocabulary) for row, length in zip(ids.tolist(), lengths, strict=True)]
    samplings = _samplings(rows, tensors, vocabulary)
    asked = {name: rows.switches(name) for name in ("return_context_logits", "return_generation_logits")}
    return [
        Request(
            prompt=prompts[row],
            max_tokens=rows.integers("request_output_len")[row],
            end_id=rows.integers("end_id", -1)[row],
            sampling=samplings[row],
            beams=rows.integers("beam_width", 1)[row],
            keep_context_logits=asked["return_context_logits"][row],
            keep_generation_logits=asked["return_generation_logits"][row],
        )
        for row in range(rows.rows)
    ]


def _refuse_undone(tensors: Tensors) -> None:
    undone = [name for name in UNDONE if name in tensors and tensors[name].size]
    undone += [name for name, none in NEUTRAL.items() if name in tensors and (tensors[name] != none).any()]
    if undone:
        raise UserError(f"{', '.join(undone)}: the CPU stand-in doesn't do this. Leave it out, or use a GPU stack.")


def _prompt(row: list[int], length: int, vocabulary: int) -> tuple[int, ...]:
    if not 0 <= length <= len(row):
        raise UserError(f"input_lengths {length} must be from 0 to {len(row)}, the width of input_ids.")
    if any(not 0 <= token < vocabulary for token in row[:length]):
        raise UserError(f"input_ids has a token that is not in the vocabulary of {vocabulary}.")
    return tuple(row[:length])


def _samplings(rows: Rows, tensors: Tensors, vocabulary: int) -> list[Sampling]:
    bias = tensors.get("embedding_bias")
    if bias is not None and not bias.size:  # What preprocessing hands to the ensemble where no bias is asked for.
        bias = None
    if bias is not None and bias.shape != (rows.rows, vocabulary):
        raise UserError(f"embedding_bias has shape {list(bias.shape)}; it must be [{rows.rows}, {vocabulary}].")
    seeds = rows.integers("seed" if "seed" in tensors else "random_seed")
    shortest = rows.integers("min_tokens" if "min_tokens" in tensors else "min_length")
    numbers = {
        "temperature": rows.numbers("temperature", 1.0),
        "top_p": rows.numbers("runtime_top_p", 0.0),
        "repetition_penalty": rows.numbers("repetition_penalty", 1.0),
        "presence_penalty": rows.numbers("presence_penalty", 0.0),
        "frequency_penalty": rows.numbers("frequency_penalty", 0.0),
        "length_penalty": rows.numbers("len_penalty", 0.0),
        "diversity_rate": rows.numbers("beam_search_diversity_rate", 0.0),
    }
    top_k = rows.integers("runtime_top_k")
    stop, bad = rows.words("stop_words_list", vocabulary), rows.words("bad_words_list", vocabulary)
    made = [
        Sampling(
            **{name: values[row] for name, values in numbers.items()},
            top_k=top_k[row],
            random_seed=seeds[row],
            min_length=shortest[row],
            embedding_bias=None if bias is None else bias[row].astype(np.float32),
            stop_words=stop[row],
            bad_words=bad[row],
        )
        for row in range(rows.rows)
    ]
    for sampling in made:
        sampling.check()
    return made


def _split(name: str, ids: list[int], ends: list[int], vocabulary: int) -> Words:
    words, start = [], 0
    for end in ends:
        if end < 0:
            break
        if not start < end <= len(ids):
            raise UserError(f"{name}: the words' ends {ends} must rise and stay within {len(ids)} tokens.")
        word = tuple(ids[start:end])
        if any(not 0 <= token < vocabulary for token in word):
            raise UserError(f"{name} has a token that is not in the vocabulary of {vocabulary}.")
        words.append(word)
        start = end
    return tuple(words)


def answer_tensors(
    generation: Generation, *, first: int, with_prompt: bool, with_log_probs: bool, filling: int
) -> dict[str, NDArray[Any]]:
    """One row's output tensors, from each beam's token `first` on (0: all). What was not asked for is zeros of the shapes that
    TensorRT-LLM's backend gives them: one number, and for output_log_probs one for each token that was allowed."""
    request, beams = generation.request, generation.beams
    prompt = request.prompt if with_prompt else ()
    answers = [[*prompt, *beam.tokens[first:]] for beam in beams]
    made: dict[str, NDArray[Any]] = {
        "output_ids": _table(answers, filling, np.int32)[None],
        "sequence_length": np.array([[len(answer) for answer in answers]], np.int32),
        "cum_log_probs": np.zeros((1, len(beams)), np.float32),
        "output_log_probs": np.zeros((1, len(beams), request.max_tokens), np.float32),
        "context_logits": np.zeros((1, 1, 1), np.float32),
        "generation_logits": np.zeros((1, 1, 1, 1), np.float32),
        "batch_index": np.zeros((1, 1), np.int32),
        "sequence_index": np.zeros((1, 1), np.int32),
    }
    if with_log_probs:
        made["cum_log_probs"] = np.array([[beam.score for beam in beams]], np.float32)
        log_probs = [beam.log_probs[first : len(beam.tokens)] for beam in beams]
        made["output_log_probs"] = _table(log_probs, 0, np.float32)[None]
    if generation.context_logits and not first:
        made["context_logits"] = np.concatenate(generation.context_logits)[None]
    if request.keep_generation_logits and any(beam.tokens[first:] for beam in beams):
        made["generation_logits"] = _beam_logits(beams, first)[None]
    return made


def _beam_logits(beams: Sequence[Beam], first: int) -> NDArray[np.float32]:
    """[K, N, V], zeros behind the end of a shorter beam."""
    own = [beam.logits[first : len(beam.tokens)] for beam in beams]
    vocabulary = len(next(rows for rows in own if rows)[0])
    made = np.zeros((len(own), max(len(rows) for rows in own), vocabulary), np.float32)
    for beam, rows in enumerate(own):
        if rows:
            made[beam, : len(rows)] = rows
    return made


def _table(rows: Sequence[Sequence[float]], filling: int, kind: type[np.generic]) -> NDArray[Any]:
    """Rows of unequal length as one array, at least one wide."""
    made = np.full((len(rows), max(1, *(len(row) for row in rows), 1)), filling, kind)
    for index, row in enumerate(rows):
        made[index, : len(row)] = row
    return made


def stacked(answers: Sequence[dict[str, NDArray[Any]]], filling: int) -> dict[str, NDArray[Any]]:
    """Several rows' tensors as one batch, shorter ones filled up."""
    made = {}
    for name in answers[0]:
        parts = [answer[name] for answer in answers]
        shape = np.max([part.shape[1:] for part in parts], axis=0)
        batch = np.full((len(parts), *shape), filling if name == "output_ids" else 0, parts[0].dtype)
        for row, part in enumerate(parts):
            batch[(row, *(slice(size) for size in part.shape[1:]))] = part[0]
        made[name] = batch
    return made
