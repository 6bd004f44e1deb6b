"""Text in and out of a FasterTransformer model: the request's checks, its tensors, and the answer's texts.

The tensors are those of FasterTransformer's GPT backend (B inputs, S tokens of the longest, W beams):
input_ids UINT32[B,S] padded at the end, input_lengths UINT32[B,1], request_output_len UINT32[B,1], and one [B,1] for each
optional parameter; back come output_ids UINT32[B,W,S+output], prompt included, and sequence_length UINT32[B,W].

Needs numpy and tokenizers only; the server around it is kserve_model.py.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine_jobs.errors import UserError

PARAMETERS: Mapping[str, type[np.generic]] = {
    "runtime_top_k": np.uint32,
    "runtime_top_p": np.float32,
    "beam_width": np.uint32,
    "beam_search_diversity_rate": np.float32,
    "temperature": np.float32,
    "len_penalty": np.float32,
    "repetition_penalty": np.float32,
    "top_p_decay": np.float32,
    "top_p_min": np.float32,
    "top_p_reset_ids": np.uint32,
    "start_id": np.uint32,
    "end_id": np.uint32,
    "random_seed": np.uint64,
}
"""FasterTransformer's optional parameters of one number, which an input may carry under these names."""

SAME_FOR_ALL = ("beam_width",)
"""The backend reads these from the first input of a batch only."""


class BadRequest(Exception):
    """A request that the caller can put right; the message says where and how."""


@dataclass(frozen=True, kw_only=True)
class Limits:
    """What one request may ask for: new tokens of each input, tokens of each input, inputs."""

    output_tokens: int
    input_tokens: int
    inputs: int


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """One checked input: text, number of new tokens, and FasterTransformer's parameters by name."""

    text: str
    output_len: int
    parameters: Mapping[str, int | float]


def read_prompts(body: object, limits: Limits) -> list[Prompt]:
    """The inputs of `{"inputs": [{"input": TEXT, "output_len": N, …}, …]}` (KServe's v1 name `instances` is taken too).

    The body may still be JSON text, as it is where a client names no JSON content type. Raises BadRequest.
    """
    if isinstance(body, bytes | str):
        try:
            body = json.loads(body)
        except ValueError as error:
            raise BadRequest(f"the request is not JSON: {error}") from error
    if not isinstance(body, dict) or not ("inputs" in body or "instances" in body):
        raise BadRequest('the request has no "inputs": send {"inputs": [{"input": "…", "output_len": 18}]}')
    name = "inputs" if "inputs" in body else "instances"
    entries = body[name]
    if not isinstance(entries, list) or not entries:
        raise BadRequest(f'"{name}" must be a list with at least one input')
    if len(entries) > limits.inputs:
        raise BadRequest(f'"{name}" has {len(entries)} entries, and one request may have {limits.inputs}')
    prompts = [_read_prompt(entry, f"{name}[{i}]", limits) for i, entry in enumerate(entries)]
    for parameter in PARAMETERS:
        values = {prompt.parameters.get(parameter) for prompt in prompts}
        if None in values and len(values) > 1:
            raise BadRequest(f'"{parameter}" must be given for all {name} or for none: they are one batch')
        if parameter in SAME_FOR_ALL and len(values) > 1:
            raise BadRequest(f'"{parameter}" must be the same for all {name}: they are one batch')
    return prompts


def _read_prompt(entry: object, where: str, limits: Limits) -> Prompt:
    if not isinstance(entry, dict):
        raise BadRequest(f'{where} must be an object with "input" and "output_len", not {_kind(entry)}')
    unknown = sorted(set(entry) - {"input", "output_len", *PARAMETERS})
    if unknown:
        raise BadRequest(
            f'{where} has unknown keys {unknown}; known are "input", "output_len", {", ".join(PARAMETERS)}'
        )
    if "input" not in entry:
        raise BadRequest(f'{where} has no "input"')
    text = entry["input"]
    if not isinstance(text, str):
        raise BadRequest(f"{where}.input must be a string, not {_kind(text)}")
    if not text:
        raise BadRequest(f"{where}.input is empty: there is nothing to continue")
    if "output_len" not in entry:
        raise BadRequest(f'{where} has no "output_len": the number of tokens to generate')
    output_len = _whole_number(entry["output_len"])
    if output_len is None or output_len < 1:
        raise BadRequest(f"{where}.output_len must be a whole number above 0, not {json.dumps(entry['output_len'])}")
    if output_len > limits.output_tokens:
        raise BadRequest(
            f"{where}.output_len is {output_len}, and this server generates at most {limits.output_tokens}"
        )
    parameters = {name: _parameter(entry[name], name, where) for name in PARAMETERS if name in entry}
    return Prompt(text=text, output_len=output_len, parameters=parameters)


def _whole_number(value: object) -> int | None:
    """The number where it is an int or a string of decimal digits, as the command lines of KServe's examples send it."""
    if isinstance(value, str) and value.isascii() and value.isdecimal():
        return int(value[:20])
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def _parameter(value: object, name: str, where: str) -> int | float:
    kind = PARAMETERS[name]
    if issubclass(kind, np.floating):
        if isinstance(value, int | float) and not isinstance(value, bool) and np.isfinite(value):
            return float(value)
        raise BadRequest(f"{where}.{name} must be a number, not {json.dumps(value)}")
    number = _whole_number(value)
    largest = 2 ** (8 * np.dtype(kind).itemsize) - 1
    if number is None or not 0 <= number <= largest:
        raise BadRequest(f"{where}.{name} must be a whole number from 0 to {largest}, not {json.dumps(value)}")
    if name == "beam_width" and number < 1:
        raise BadRequest(f"{where}.{name} must be 1 or more")
    return number


def _kind(value: object) -> str:
    names = {str: "a string", bool: "a boolean", int: "a number", float: "a number", list: "a list", dict: "an object"}
    return names.get(type(value), "null" if value is None else type(value).__name__)


class PromptTokenizer:
    """A checkpoint's tokenizer.json, without the padding and truncation that the file may ask for."""

    def __init__(self, folder: Path) -> None:
        """Raises UserError where `folder` has no tokenizer.json or it can't be read."""
        file = folder / "tokenizer.json"
        if not file.is_file():
            raise UserError(
                f"{folder} has no tokenizer.json: --tokenizer_path must name a folder with a fast tokenizer"
            )
        try:
            self._tokenizer = Tokenizer.from_file(str(file))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"{file} is not a tokenizer: {error}") from error
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()

    def tensors(self, prompts: Sequence[Prompt], limits: Limits) -> dict[str, NDArray[Any]]:
        """The model's input tensors by name. Raises BadRequest for an input of no or too many tokens."""
        rows = [encoding.ids for encoding in self._tokenizer.encode_batch([prompt.text for prompt in prompts])]
        for i, row in enumerate(rows):
            if not row:
                raise BadRequest(f"input {i} has no tokens: there is nothing to continue")
            if len(row) > limits.input_tokens:
                raise BadRequest(
                    f"input {i} has {len(row)} tokens, and this server takes at most {limits.input_tokens}"
                )
        # Every row repeats its last token up to the longest's length; input_lengths says where it really ends.
        longest = max(map(len, rows))
        tensors: dict[str, NDArray[Any]] = {
            "input_ids": np.array([row + row[-1:] * (longest - len(row)) for row in rows], np.uint32),
            "input_lengths": _column([len(row) for row in rows], np.uint32),
            "request_output_len": _column([prompt.output_len for prompt in prompts], np.uint32),
        }
        for name, kind in PARAMETERS.items():
            if name in prompts[0].parameters:
                tensors[name] = _column([prompt.parameters[name] for prompt in prompts], kind)
        return tensors

    def texts(
        self, asked: Mapping[str, NDArray[Any]], output_ids: NDArray[Any], sequence_length: NDArray[Any]
    ) -> list[list[str]]:
        """The prompt with its continuation, for each input and each of its beams. `asked`: the tensors of `tensors`.

        The backend counts an input's padding in its sequence_length, though output_ids is without it and goes on with end
        tokens (FasterTransformer decoding_kernels.cu, gatherTree).
        """
        width = asked["input_ids"].shape[1]
        ends = asked["input_lengths"] + asked["request_output_len"]
        lengths = np.minimum(sequence_length.astype(np.int64) - (width - asked["input_lengths"]), ends)
        return [
            [self._tokenizer.decode(beam[:length].tolist()) for beam, length in zip(beams, row, strict=True)]
            for beams, row in zip(output_ids, lengths, strict=True)
        ]


def _column(values: Sequence[int | float], kind: type[np.generic]) -> NDArray[Any]:
    return np.array(values, dtype=kind).reshape(-1, 1)
