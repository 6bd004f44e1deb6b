"""One `up` or `down` at a time: a second one says who is at work, and waits."""

import fcntl
import json
import os
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_jobs.errors import UserError


@contextmanager
def exclusive(path: Path, command: str, report: Callable[[str], None], *, patience_s: float = 1800.0) -> Iterator[None]:
    """Holds the lock file while the body runs. Raises UserError where another holds it for longer than `patience_s`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a+") as handle:
        deadline = time.monotonic() + patience_s
        announced = False
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except BlockingIOError:
                holder = _holder(path)
                if time.monotonic() >= deadline:
                    raise UserError(f"{holder} still holds {path}: end it, or wait, then try again") from None
                if not announced:
                    report(f"{holder} is at work: waiting for it")
                    announced = True
                time.sleep(0.2)
        handle.truncate(0)
        handle.write(json.dumps({"pid": os.getpid(), "command": command, "since": time.time()}))
        handle.flush()
        try:
            yield
        finally:
            handle.truncate(0)


def _holder(path: Path) -> str:
    try:
        known = json.loads(path.read_text())
        since = time.strftime("%H:%M:%S", time.localtime(known["since"]))
        return f"another `{known['command']}` (pid {known['pid']}, since {since})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another command"
