"""What one request asks for: the tensors that a client may send, their meaning and their limits. Standard library only."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from engine_jobs.errors import UserError

TEXT_INPUT: Final = "text_input"
STOP_WORDS: Final = "stop_words"
STREAM: Final = "stream"

INPUTS: Final[Mapping[str, str]] = {
    "max_tokens": "TYPE_INT32",
    "min_tokens": "TYPE_INT32",
    "temperature": "TYPE_FP32",
    "top_k": "TYPE_INT32",
    "top_p": "TYPE_FP32",
    "repetition_penalty": "TYPE_FP32",
    "seed": "TYPE_UINT64",
    "end_id": "TYPE_INT32",
    "exclude_input_in_output": "TYPE_BOOL",
    STOP_WORDS: "TYPE_STRING",
}
"""The optional input tensors beside `text_input`, by Triton's type. One value each; `stop_words` any number."""

PASSED_BY: Final = frozenset({"binary_data_output", "priority", "timeout"})
"""Request parameters that are not ours and are left alone, as are those that begin with `triton_`."""


@dataclass(frozen=True, kw_only=True)
class Defaults:
    """What holds where a request says nothing. `max_output_length` bounds prompt and answer together, in tokens, as the
    tutorial's parameter of that name does; None: `max_tokens` alone. `max_length`: tokens that a row of the cache holds."""

    max_tokens: int
    max_output_length: int | None
    max_length: int
    exclude_input: bool
    vocabulary: int


@dataclass(frozen=True, kw_only=True)
class Parameters:
    """How one answer is generated. `sampled` False: the likeliest token each time. `max_tokens` None: the defaults'."""

    max_tokens: int | None
    min_tokens: int
    sampled: bool
    temperature: float
    top_k: int
    top_p: float
    repetition_penalty: float
    seed: int | None
    end_id: int | None
    stop_words: tuple[str, ...]
    exclude_input: bool
    stream: bool


def check_request_parameters(text: str) -> None:
    """Of a request's parameters (Triton's JSON text), raises UserError for one that nothing here knows: it is most often a
    misspelt tensor of `generate`, and a setting that is dropped in silence is worse than an error."""
    found: Mapping[str, Any] = json.loads(text or "{}")
    unknown = sorted(name for name in found if name not in PASSED_BY and not name.startswith("triton_"))
    if unknown:
        raise UserError(f"unknown parameter {', '.join(unknown)}; known here: {', '.join(sorted((*INPUTS, STREAM)))}")


def one_prompt_each(tensors: Mapping[str, Any], batched: bool) -> list[dict[str, list[Any]]]:
    """A request's tensors (nested lists; `batched`: their first dimension is Triton's batch) -> those of each of its prompts.

    Stop words are a list; of everything else each prompt has its own value, or all have the one. Texts come as str.
    Raises UserError where numbers don't fit together or a text is not UTF-8.
    """
    prompts = [_text(TEXT_INPUT, prompt) for prompt in _flat(tensors[TEXT_INPUT])]
    if not prompts:
        raise UserError(f"{TEXT_INPUT}: there is no prompt in it")
    made: list[dict[str, list[Any]]] = [{TEXT_INPUT: [prompt], STREAM: [False]} for prompt in prompts]
    for name, values in tensors.items():
        if name == TEXT_INPUT:
            continue
        if name == STOP_WORDS:
            lists = values if batched else [values]
            rows = [[_text(name, word) for word in _flat(each)] for each in lists]
        else:
            rows = [[value] for value in _flat(values)]
        if len(rows) not in (1, len(prompts)):
            raise UserError(f"{name}: one value, or one for each of the {len(prompts)} prompts; got {len(rows)}")
        for place, one in enumerate(made):
            one[name] = rows[place if len(rows) > 1 else 0]
    return made


def _flat(values: Any) -> list[Any]:
    return [each for value in values for each in _flat(value)] if isinstance(values, list) else [values]


def _text(name: str, value: Any) -> str:
    try:
        return value.decode() if isinstance(value, bytes) else str(value)
    except UnicodeDecodeError:
        raise UserError(f"{name}: not UTF-8 text") from None


def read_prompt(tensors: Mapping[str, Sequence[Any]]) -> str:
    """The one prompt of a request to the engine. Raises UserError where there is none, or more, or what is no text."""
    prompts = tensors.get(TEXT_INPUT, ())
    if len(prompts) != 1:
        raise UserError(f"{TEXT_INPUT}: this model takes one prompt a request, got {len(prompts)}")
    return _text(TEXT_INPUT, prompts[0])


def read_parameters(tensors: Mapping[str, Sequence[Any]], defaults: Defaults) -> Parameters:
    """Parameters from a request's tensors, each a flat sequence of values. Raises UserError, which names the tensor."""
    read = _Reader(tensors)
    top_k, top_p = read.integer("top_k", 0, 0), read.real("top_p", 1.0)
    temperature = read.real("temperature", None)
    read.within("top_p", 0 < top_p <= 1, "above 0, 1 at most", top_p)
    if temperature is not None:
        read.within("temperature", temperature >= 0, "0 or more", temperature)
    penalty = read.real("repetition_penalty", 1.0)
    read.within("repetition_penalty", penalty > 0, "above 0", penalty)
    asks = "temperature" in tensors or "seed" in tensors or top_k > 1 or top_p < 1
    end_id = read.integer("end_id", None, 0)
    if end_id is not None:
        read.within(
            "end_id", end_id < defaults.vocabulary, f"below {defaults.vocabulary}, the vocabulary's size", end_id
        )
    max_tokens = read.integer("max_tokens", None, 1)
    min_tokens = read.integer("min_tokens", 0, 0)
    if max_tokens is not None:
        read.within("min_tokens", min_tokens <= max_tokens, f"max_tokens ({max_tokens}) at most", min_tokens)
    return Parameters(
        max_tokens=max_tokens,
        min_tokens=min_tokens,
        sampled=asks and temperature != 0 and top_k != 1,
        temperature=temperature or 1.0,
        top_k=top_k,
        top_p=top_p,
        repetition_penalty=penalty,
        seed=read.integer("seed", None, 0),
        end_id=end_id,
        stop_words=read.texts(STOP_WORDS),
        exclude_input=read.flag("exclude_input_in_output", defaults.exclude_input),
        stream=read.flag(STREAM, True),
    )


def tokens_to_generate(parameters: Parameters, prompt_tokens: int, defaults: Defaults) -> int:
    """How many tokens at most. Raises UserError where prompt and answer can't both fit in `max_length`."""
    room = defaults.max_length - prompt_tokens
    if room < 1:
        raise UserError(
            f"{TEXT_INPUT}: the prompt has {prompt_tokens} tokens; with one to generate that is over this model's limit of "
            f"{defaults.max_length}. Shorten the prompt, or raise `maxLength`."
        )
    if parameters.max_tokens is not None:
        if parameters.max_tokens > room:
            raise UserError(
                f"max_tokens: {parameters.max_tokens} after a prompt of {prompt_tokens} tokens is over this model's limit of "
                f"{defaults.max_length} together; ask for {room} at most, or raise `maxLength`."
            )
        return parameters.max_tokens
    if defaults.max_output_length is None:
        return min(defaults.max_tokens, room)
    if prompt_tokens >= defaults.max_output_length:
        raise UserError(
            f"{TEXT_INPUT}: the prompt has {prompt_tokens} tokens, and prompt and answer together are limited to "
            f"{defaults.max_output_length} (`maxOutputLength`). Send `max_tokens` to ask for more."
        )
    return min(defaults.max_output_length - prompt_tokens, room)


class _Reader:
    """Single values out of tensors, with errors that name the tensor."""

    def __init__(self, tensors: Mapping[str, Sequence[Any]]) -> None:
        self.tensors = tensors

    def _one(self, name: str) -> Any:
        values = self.tensors[name]
        if len(values) != 1:
            raise UserError(f"{name}: one value, got {len(values)}")
        return values[0]

    def integer(self, name: str, default: Any, least: int) -> Any:
        if name not in self.tensors:
            return default
        value = int(self._one(name))
        self.within(name, value >= least, f"{least} or more", value)
        return value

    def real(self, name: str, default: Any) -> Any:
        if name not in self.tensors:
            return default
        value = float(self._one(name))
        self.within(name, math.isfinite(value), "a finite number", value)
        return value

    def flag(self, name: str, default: bool) -> bool:
        return bool(self._one(name)) if name in self.tensors else default

    def texts(self, name: str) -> tuple[str, ...]:
        return tuple(text for value in self.tensors.get(name, ()) if (text := _text(name, value)))

    @staticmethod
    def within(name: str, good: bool, limits: str, value: object) -> None:
        if not good:
            raise UserError(f"{name}: must be {limits}, got {value}")
