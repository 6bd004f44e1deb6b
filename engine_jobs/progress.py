"""How far a download is, as lines that a Job's log can hold."""

import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_jobs.durable import print_line


@contextmanager
def bytes_reported(folder: Path, total: int, every: float = 5.0) -> Iterator[None]:
    """While the block lasts, prints every few seconds how many of `total` bytes are in the folder."""
    stop = threading.Event()

    def watch() -> None:
        began, before = time.monotonic(), size_of(folder)
        while not stop.wait(every):
            now = size_of(folder)
            speed = (now - before) / (time.monotonic() - began) / 1e6
            print_line(f"{now} of {total} bytes ({100 * now // max(total, 1)} %), {speed:.1f} MB/s")

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def size_of(folder: Path) -> int:
    """Bytes of the files below; one that is renamed at the same moment counts next time."""
    total = 0
    for path in list(folder.rglob("*")):
        try:
            total += path.stat().st_size if path.is_file() else 0
        except FileNotFoundError:
            continue
    return total
