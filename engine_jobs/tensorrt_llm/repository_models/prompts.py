"""Prompts and words to the token tensors that TensorRT-LLM takes: what `preprocessing` does, without Triton."""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.engine_limits import EngineLimits
from engine_jobs.tensorrt_llm.repository_models.tensors import Tensors, column, padded, texts
from engine_jobs.tensorrt_llm.repository_models.tokenizer import Tokenizer

IMAGES = ("IMAGE", "IMAGE_BYTES", "IMAGE_URL", "VIDEO_BYTES")

Words = list[list[tuple[int, ...]]]
"""For each row its words, each a run of token ids."""


@dataclass(frozen=True, kw_only=True)
class Preprocessing:
    tokenizer: Tokenizer
    add_special_tokens: bool
    limits: EngineLimits

    def answer(self, tensors: Tensors) -> dict[str, NDArray[np.generic]]:
        """The output tensors for a request's input tensors, B rows.

        INPUT_ID INT32[B,L] filled up with the padding token, REQUEST_INPUT_LEN INT32[B,1], REQUEST_OUTPUT_LEN INT32[B,1],
        BAD_WORDS_IDS and STOP_WORDS_IDS INT32[B,2,W], EMBEDDING_BIAS FP32[B,V] (or [B,0]), OUT_END_ID and OUT_PAD_ID INT32[B,1],
        DECODER_INPUT_ID INT32[B,D], REQUEST_DECODER_INPUT_LEN INT32[B,1] and, where asked for, OUT_PROMPT_TABLE_EXTRA_IDS UINT64[B,L].

        Raises UserError for what a request must not be: an empty prompt, one past the engine's limits, no token to make.
        """
        given = [name for name in IMAGES if name in tensors]
        if given:
            raise UserError(f"{', '.join(given)}: this model reads text only")
        queries = [row[0] for row in self._one_text(tensors, "QUERY")]
        rows = len(queries)
        ids = [self._prompt(text, _row_name("the prompt", index, rows)) for index, text in enumerate(queries)]
        end_ids = self._column(tensors, "END_ID", rows, self.tokenizer.end_id)
        pad_ids = self._column(tensors, "PAD_ID", rows, self.tokenizer.pad_id)
        if "DECODER_QUERY" in tensors:
            decoder = [
                self.tokenizer.encode(row[0], self.add_special_tokens)
                for row in self._one_text(tensors, "DECODER_QUERY")
            ]
        else:
            decoder = [[pad_id] for pad_id in pad_ids]
        input_ids = padded(ids, self.tokenizer.pad_id)
        made: dict[str, NDArray[np.generic]] = {
            "INPUT_ID": input_ids,
            "REQUEST_INPUT_LEN": _one_each([len(row) for row in ids]),
            "REQUEST_OUTPUT_LEN": _one_each(self._output_lengths(tensors, rows)),
            "DECODER_INPUT_ID": padded(decoder, self.tokenizer.pad_id),
            "REQUEST_DECODER_INPUT_LEN": _one_each([len(row) for row in decoder]),
            "BAD_WORDS_IDS": word_table(self._words(tensors, "BAD_WORDS_DICT", rows)),
            "STOP_WORDS_IDS": word_table(self._words(tensors, "STOP_WORDS_DICT", rows)),
            "EMBEDDING_BIAS": self._embedding_bias(tensors, rows),
            "OUT_END_ID": _one_each(end_ids),
            "OUT_PAD_ID": _one_each(pad_ids),
        }
        if "PROMPT_TABLE_EXTRA_ID" in tensors:
            extra = np.array(column("PROMPT_TABLE_EXTRA_ID", tensors["PROMPT_TABLE_EXTRA_ID"], rows), dtype=np.uint64)
            virtual = input_ids >= (self.limits.vocab_size or self.tokenizer.size)
            made["OUT_PROMPT_TABLE_EXTRA_IDS"] = np.where(virtual, extra[:, None], np.uint64(0))
        if "PROMPT_EMBEDDING_TABLE" in tensors:  # v0.12's ensemble leads it through here
            made["OUT_PROMPT_EMBEDDING_TABLE"] = tensors["PROMPT_EMBEDDING_TABLE"]
        return made

    def _prompt(self, text: str, row: str) -> list[int]:
        if not text:
            raise UserError(f"{row} is empty: text_input (QUERY) needs some text")
        ids = self.tokenizer.encode(text, self.add_special_tokens)
        if not ids:
            raise UserError(f"{row} makes no token: text_input (QUERY) needs some text")
        self.limits.check(len(ids), row)
        return ids

    @staticmethod
    def _one_text(tensors: Tensors, name: str) -> list[list[str]]:
        if name not in tensors:
            raise UserError(f"{name} is missing")
        rows = texts(name, tensors[name])
        if any(len(row) != 1 for row in rows):
            raise UserError(f"{name} has {tensors[name].shape[1]} texts a row; it takes one")
        return rows

    @staticmethod
    def _output_lengths(tensors: Tensors, rows: int) -> list[int]:
        if "REQUEST_OUTPUT_LEN" not in tensors:
            raise UserError("max_tokens (REQUEST_OUTPUT_LEN) is missing: say how many tokens to generate at most")
        lengths = column("max_tokens (REQUEST_OUTPUT_LEN)", tensors["REQUEST_OUTPUT_LEN"], rows)
        if min(lengths) < 1:
            raise UserError(f"max_tokens (REQUEST_OUTPUT_LEN) is {min(lengths)}; it must be 1 or more")
        return lengths

    @staticmethod
    def _column(tensors: Tensors, name: str, rows: int, default: int) -> list[int]:
        return column(name, tensors[name], rows) if name in tensors else [default] * rows

    def _words(self, tensors: Tensors, name: str, rows: int) -> Words:
        if name not in tensors:
            return [[] for _ in range(rows)]
        given = texts(name, tensors[name])
        if len(given) != rows:
            raise UserError(f"{name} has {len(given)} rows, and there are {rows} prompts")
        return [[ids for word in row for ids in self._spellings(word)] for row in given]

    def _spellings(self, word: str) -> tuple[tuple[int, ...], ...]:
        """A word's tokens where it stands alone and where it follows other text: sentencepiece writes the two differently."""
        alone = tuple(self.tokenizer.encode(word, False))
        if not alone:
            return ()
        before = self.tokenizer.encode("\n", False)
        both = self.tokenizer.encode(f"\n{word}", False)
        following = tuple(both[len(before) :]) if both[: len(before)] == before else alone
        return (alone,) if following in ((), alone) else (alone, following)

    def _embedding_bias(self, tensors: Tensors, rows: int) -> NDArray[np.float32]:
        if "EMBEDDING_BIAS_WORDS" not in tensors or "EMBEDDING_BIAS_WEIGHTS" not in tensors:
            return np.zeros((rows, 0), dtype=np.float32)
        words = texts("EMBEDDING_BIAS_WORDS", tensors["EMBEDDING_BIAS_WORDS"])
        weights = tensors["EMBEDDING_BIAS_WEIGHTS"]
        if weights.shape != tensors["EMBEDDING_BIAS_WORDS"].shape or len(words) != rows:
            raise UserError(
                f"EMBEDDING_BIAS_WORDS has shape {list(tensors['EMBEDDING_BIAS_WORDS'].shape)} and EMBEDDING_BIAS_WEIGHTS "
                f"{list(weights.shape)} for {rows} prompts; they need a weight a word, a row a prompt"
            )
        bias = np.zeros((rows, self.limits.vocab_size or self.tokenizer.size), dtype=np.float32)
        for index, row in enumerate(words):
            for word, weight in zip(row, weights[index], strict=True):
                np.add.at(bias[index], self.tokenizer.encode(word, False), weight)
        return bias


def word_table(rows: Words) -> NDArray[np.int32]:
    """INT32 [rows, 2, W], W at least 1: the words' tokens on end (filled up with 0), and where each word ends (-1: no more)."""
    flat = [[token for word in row for token in word] for row in rows]
    ends = [np.cumsum([len(word) for word in row], dtype=np.int64).tolist() for row in rows]
    width = max([1, *(len(row) for row in flat)])
    return np.stack([padded(flat, 0, at_least=width), padded(ends, -1, at_least=width)], axis=1)


def _one_each(values: list[int]) -> NDArray[np.int32]:
    return np.array(values, dtype=np.int32).reshape(-1, 1)


def _row_name(what: str, index: int, rows: int) -> str:
    return what if rows == 1 else f"{what} {index + 1} of {rows}"
