"""The limits that an engine was built with, so that a prompt past them is refused in words before it reaches the engine."""

import json
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError


@dataclass(frozen=True, kw_only=True)
class EngineLimits:
    """In tokens, a prompt and prompt + answer; `vocab_size` is the model's. None where nothing is known."""

    max_input_len: int | None = None
    max_seq_len: int | None = None
    vocab_size: int | None = None

    def check(self, tokens: int, row: str) -> None:
        """Raises UserError for a prompt of so many tokens that the engine cannot take."""
        if self.max_input_len is not None and tokens > self.max_input_len:
            raise UserError(
                f"{row} has {tokens} tokens, and this engine takes {self.max_input_len} at most (max_input_len); shorten it"
            )
        if self.max_seq_len is not None and tokens >= self.max_seq_len:
            raise UserError(
                f"{row} has {tokens} tokens, which leaves none of this engine's {self.max_seq_len} (max_seq_len) for an answer; "
                "shorten it"
            )


def read_engine_limits(engine_dir: Path | None) -> EngineLimits:
    """From the engine's config.json; no limits where none is named, or the folder is not to be seen from here."""
    file = None if engine_dir is None else engine_dir / "config.json"
    if file is None or not file.is_file():
        return EngineLimits()
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
        build, model = content.get("build_config", {}), content.get("pretrained_config", {})
        return EngineLimits(
            max_input_len=_number(build.get("max_input_len")),
            max_seq_len=_number(build.get("max_seq_len")),
            vocab_size=_number(model.get("vocab_size")),
        )
    except (ValueError, AttributeError) as error:
        raise UserError(f"{file} is not an engine's config.json: {error}") from error


def _number(value: object) -> int | None:
    return value if isinstance(value, int) and value > 0 else None
