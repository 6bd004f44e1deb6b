"""Folders that a command writes: complete or absent, in the place of what an earlier run of it left."""

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_jobs.durable import complete, full_disk_named, only_one
from engine_jobs.errors import UserError

CONFIG = "config.json"


@contextmanager
def written(output: Path) -> Iterator[Path]:
    """A folder to write into, which becomes `output` in the end. Raises UserError where `output` holds something else than
    an earlier run's work, and where the disk is full."""
    with only_one(output), full_disk_named(output.parent):
        if output.exists() and not output.is_dir():
            raise UserError(f"{output} is a file, not a folder. Name another --output_dir.")
        if output.is_dir() and any(output.iterdir()) and not (output / CONFIG).is_file():
            raise UserError(f"{output} is not empty, and not an earlier run's. Name another --output_dir.")
        partial, old = (output.with_name(f".{output.name}.{kind}") for kind in ("partial", "old"))
        for left in (partial, old):
            shutil.rmtree(left, ignore_errors=True)
        partial.mkdir()
        try:
            yield partial
            if output.is_dir():
                output.rename(old)
            complete(partial, output)
        finally:
            for left in (partial, old):
                shutil.rmtree(left, ignore_errors=True)
