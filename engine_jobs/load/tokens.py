"""How many tokens an answer has: with a tokenizer exactly; without one, a stream's events are counted, for servers send one a token."""

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.load.sample import Answered

EVENTS = "events of the streams that hold text"


class TokenCounter:
    """Counts with a `tokenizer.json` if one is given. An answer that repeats its prompt is counted without it."""

    def __init__(self, tokenizer: Path | None, prompts: Sequence[str]) -> None:
        """Raises UserError for a file that is no tokenizer."""
        self._prompts = sorted(prompts, key=len, reverse=True)
        self._file = tokenizer
        if tokenizer is None:
            return
        from tokenizers import Tokenizer

        try:
            self._tokenizer = Tokenizer.from_file(str(tokenizer))
        except Exception as error:  # the library raises bare Exception
            raise UserError(f"--tokenizer {tokenizer}: not a tokenizer.json that can be read: {error}") from None
        self._count = lru_cache(maxsize=4096)(self._count_text)

    def count(self, answers: Sequence[Answered]) -> tuple[int, str] | None:
        """How many tokens, and how they were counted; None where there is no way to."""
        if self._file is not None:
            return sum(self._count(answer.text) for answer in answers), f"by {self._file.name}"
        if answers and all(answer.arrivals for answer in answers):
            return sum(len(answer.arrivals) for answer in answers), EVENTS
        return None

    def _count_text(self, text: str) -> int:
        prompt = next((each for each in self._prompts if text.startswith(each)), "")
        return len(self._tokenizer.encode(text.removeprefix(prompt), add_special_tokens=False).ids)
