"""Folders that are complete or absent: written under another name, on the disk, then renamed; by one process at a time."""

import errno
import fcntl
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from engine_jobs.errors import UserError


def print_line(line: str) -> None:
    """A program's progress: a line at once, also where stdout is a pipe."""
    print(line, flush=True)


def sync(path: Path) -> None:
    """Makes a file's bytes, or a folder's names, outlast a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def complete(partial: Path, output: Path) -> None:
    """Gives a finished folder its final name, once all of it is on the disk."""
    for path in (*partial.rglob("*"), partial):
        sync(path)
    partial.rename(output)
    sync(output.parent)


@contextmanager
def only_one(output: Path) -> Iterator[None]:
    """Holds a lock beside `output`, so that a second process waits, then finds the work done. A kill releases it."""
    output.parent.mkdir(parents=True, exist_ok=True)
    with output.with_name(f".{output.name}.lock").open("w") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            print_line(f"another process makes {output}: waiting for it")
            fcntl.flock(file, fcntl.LOCK_EX)
        yield


@contextmanager
def full_disk_named(folder: Path) -> Iterator[None]:
    """Turns a full disk, or a used-up quota, into a UserError that names the folder."""
    try:
        yield
    except OSError as error:
        if error.errno not in (errno.ENOSPC, errno.EDQUOT):
            raise
        raise UserError(
            f"{folder}: the disk is full. Make room and run this again; what is complete there is kept."
        ) from error
