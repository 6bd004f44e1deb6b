"""How the front model tells the engine that a caller has gone: one byte of memory that both processes see.

Triton tells each of its models whether its own caller has cancelled, but has no way to cancel a request that one model makes of
another (BLS; not in 2.51). So the front keeps a file of flags in /dev/shm and sends along which one is this request's.
"""

import mmap
import os
import re
from pathlib import Path
from typing import Final

from engine_jobs.errors import UserError

FOLDER: Final = Path("/dev/shm")
PREFIX: Final = "llm-serving-cancel-"
FLAGS: Final = 4096


class CancelFlags:
    """The front's side. One process uses one of these, from any of its threads."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self.path = folder / f"{PREFIX}{os.getpid()}-{os.urandom(4).hex()}"
        descriptor = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600)
        try:
            os.ftruncate(descriptor, FLAGS)
            self._memory = mmap.mmap(descriptor, FLAGS)
        finally:
            os.close(descriptor)
        self._free = list(range(FLAGS))

    def take(self) -> tuple[int, str]:
        """A lowered flag: its number, and what to send along."""
        number = self._free.pop()
        self._memory[number] = 0
        return number, f"{self.path.name}:{number}"

    def give_back(self, number: int) -> None:
        self._free.append(number)

    def raise_flag(self, number: int) -> None:
        self._memory[number] = 1

    def close(self) -> None:
        self.path.unlink(missing_ok=True)


class CancelFlagReader:
    """The engine's side: looks at flags by what was sent along, keeping the fronts' files open."""

    def __init__(self, folder: Path = FOLDER) -> None:
        self._folder = folder
        self._open: dict[str, mmap.mmap] = {}

    def is_raised(self, text: str) -> bool:
        """Raises UserError where the text is none of ours, or its front is gone."""
        found = re.fullmatch(rf"({PREFIX}\d+-[0-9a-f]+):(\d{{1,4}})", text)
        if found is None or int(found[2]) >= FLAGS:
            raise UserError(f"{text!r} is no cancel flag")
        name = found[1]
        if name not in self._open:
            try:
                with (self._folder / name).open("rb") as file:
                    self._open[name] = mmap.mmap(file.fileno(), FLAGS, access=mmap.ACCESS_READ)
            except (OSError, ValueError):
                raise UserError(f"the cancel flag {text!r} is gone") from None
        return self._open[name][int(found[2])] != 0
