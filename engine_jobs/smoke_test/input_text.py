"""A text that a command line names: a file, or standard input."""

import sys
from pathlib import Path

from engine_jobs.errors import UserError


def read_text(path: str) -> str:
    """`-` is standard input. Raises UserError for what is not UTF-8, and OSError for a file that can't be read."""
    try:
        return sys.stdin.read() if path == "-" else Path(path).read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not text in UTF-8: {error}") from None
