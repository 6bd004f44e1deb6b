"""From token ids to text, piece by piece: whole characters only, and nothing of a stop word. Standard library only."""

from collections.abc import Callable, Sequence
from typing import Final

Decode = Callable[[Sequence[int]], str]
"""Token ids -> text, special tokens left out."""

CONTEXT: Final = 6
"""Tokens before a piece that are decoded with it: how a tokenizer writes a token depends on its neighbours."""

UNFINISHED: Final = "\N{REPLACEMENT CHARACTER}"


class TextStream:
    """The text of tokens that arrive one after another, as they read after `prompt` (its token ids).

    All pieces joined are what decoding all tokens at once gives, up to the first stop word, which is left out.
    """

    def __init__(self, decode: Decode, prompt: Sequence[int], stop_words: Sequence[str] = ()) -> None:
        self.stopped = False
        self._decode = decode
        self._ids = list(prompt[-CONTEXT:])
        self._start = 0
        self._read = len(self._ids)
        self._stop_words = stop_words
        self._held = ""

    def add(self, tokens: Sequence[int], *, last: bool = False) -> str:
        """The text that has become certain. `last`: nothing will follow, so nothing is held back."""
        if self.stopped:
            return ""
        self._ids.extend(tokens)
        before = self._decode(self._ids[self._start : self._read])
        text = self._decode(self._ids[self._start :])
        new = text[len(before) :]
        if new.endswith(UNFINISHED) and not last:
            return ""
        if new:
            # What is read becomes the context of what follows.
            self._start, self._read = max(self._read - CONTEXT, self._start), len(self._ids)
        return self._without_stop_words(new, last)

    def _without_stop_words(self, new: str, last: bool) -> str:
        if not self._stop_words:
            return new
        text = self._held + new
        found = [place for word in self._stop_words if (place := text.find(word)) >= 0]
        if found:
            self.stopped = True
            return text[: min(found)]
        held = 0 if last else max(_overlap(text, word) for word in self._stop_words)
        self._held = text[len(text) - held :]
        return text[: len(text) - held]


def _overlap(text: str, word: str) -> int:
    """Length of the longest end of `text` that a stop word may begin with."""
    return next((size for size in range(min(len(word) - 1, len(text)), 0, -1) if text.endswith(word[:size])), 0)
