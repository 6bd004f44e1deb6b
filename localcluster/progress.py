"""One line for each phase with the time it took, and the same as JSON for the table at the end of `make up`."""

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path


class Progress:
    """Prints to stderr, so that a command's own output can be read by programs."""

    def __init__(self) -> None:
        self.started = time.monotonic()
        self.phases: dict[str, float] = {}

    def say(self, text: str) -> None:
        print(f"[{time.monotonic() - self.started:6.1f}s] {text}", file=sys.stderr, flush=True)

    @contextmanager
    def phase(self, name: str) -> Iterator[None]:
        """Times the body under this name; a phase that fails is said to have failed."""
        began = time.monotonic()
        try:
            yield
        except BaseException:
            self.say(f"{name}: failed")
            raise
        took = time.monotonic() - began
        self.phases[name] = self.phases.get(name, 0.0) + took
        self.say(f"{name} ({took:.1f}s)")

    def save(self, path: Path) -> None:
        """Writes {"phases": {name: seconds}, "total": seconds}."""
        phases = {name: round(took, 2) for name, took in self.phases.items()}
        document = {"phases": phases, "total": round(time.monotonic() - self.started, 2)}
        path.write_text(json.dumps(document, indent=2) + "\n")
