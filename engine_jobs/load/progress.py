"""How far a measurement is: on a terminal a line that changes in place, elsewhere nothing, unless lines are asked for."""

import shutil
import sys
import time
from typing import Literal, TextIO

Style = Literal["auto", "lines", "none"]


class Progress:
    """`auto`: live on a terminal, and silent where stderr is none; `lines`: one plain line for each result (a Job's log)."""

    def __init__(self, style: Style, stream: TextIO | None = None) -> None:
        self._stream = stream or sys.stderr
        self._live = style == "auto" and self._stream.isatty()
        self._lines = style == "lines" or self._live
        self._shown = False
        self._began = time.monotonic()

    def now(self, text: str) -> None:
        """What is running: replaces itself on a terminal."""
        if self._live:
            width = shutil.get_terminal_size().columns - 1
            self._stream.write(f"\r\x1b[K{text[:width]}")
            self._stream.flush()
            self._shown = True

    def say(self, text: str) -> None:
        """A line that stays."""
        self.clear()
        if self._lines:
            self._stream.write(f"{text}\n")
            self._stream.flush()

    def warn(self, text: str) -> None:
        """A line that is shown wherever stderr goes."""
        self.clear()
        print(f"warning: {text}", file=self._stream, flush=True)

    def clear(self) -> None:
        if self._shown:
            self._stream.write("\r\x1b[K")
            self._shown = False

    def left(self, done: int, total: int, each: float) -> str:
        """The time left in words: by what the done ones took, or `each` seconds a piece before the first is done."""
        seconds = (time.monotonic() - self._began) / done * (total - done) if done else each * total
        return duration(seconds)


def duration(seconds: float) -> str:
    """`45 s`, `3 min`, `1 h 20 min`."""
    whole = round(seconds)
    if whole < 100:
        return f"{whole} s"
    minutes = round(whole / 60)
    return f"{minutes} min" if minutes < 100 else f"{minutes // 60} h {minutes % 60} min"
