"""`python -m engine_jobs.publish`: uploads a folder to the artifact store, its manifest last."""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.store import ArtifactStore

SHORT_KEY = 16
"""Hex digits of the key that name an artifact's folder on the work volume."""


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.publish", description=__doc__)
    parser.add_argument("--source-dir", type=Path, required=True, help="the folder to publish")
    parser.add_argument("--artifact", required=True, help="where to: s3://BUCKET/PREFIX/…/KEY or gs://…")
    parser.add_argument("--key", required=True, help="the artifact's content address")
    parser.add_argument("--inputs", default="{}", help="what it was made from, as a JSON object, for the manifest")
    parser.add_argument("--endpoint", help="the store's endpoint (default: the environment's, or the cloud's own)")
    parser.add_argument(
        "--remove-work",
        type=Path,
        metavar="DIR",
        help="the artifact's folder on the work volume, named by the key's first 16 digits and around --source-dir: "
        "removed once the artifact is in the store",
    )
    arguments = parser.parse_args(argv)
    try:
        inputs = json.loads(arguments.inputs)
    except ValueError as error:
        raise UserError(f"--inputs is not JSON: {error}.") from error
    if not isinstance(inputs, dict):
        raise UserError(f"--inputs must be a JSON object, and is {arguments.inputs}.")
    source, work = arguments.source_dir, arguments.remove_work
    if work is not None:
        check_work(work, source, arguments.key)
    store = ArtifactStore.from_url(arguments.artifact, arguments.endpoint)
    publish(store, source, arguments.key, inputs, may_be_gone=work is not None)
    if work is not None:
        remove_work(work)


def publish(store: ArtifactStore, source: Path, key: str, inputs: Mapping[str, Any], *, may_be_gone: bool) -> None:
    """Publishes the folder. `may_be_gone`: another call for this key may have published and removed it, even while this one
    reads it; then there is nothing left to do."""
    try:
        store.publish(source, "", key, inputs)
    except (UserError, OSError):
        if not may_be_gone or source.exists() or not store.is_complete():
            raise
        print_line(f"{store.url()} was published already, and {source} removed")


def check_work(work: Path, source: Path, key: str) -> None:
    """Raises UserError unless `work` can be nothing but the folder on the work volume that this artifact was made in."""
    if work.is_symlink() or work.is_mount():
        raise UserError(f"--remove-work {work}: a link, or a disk of its own, is not removed.")
    if len(key) < SHORT_KEY or work.name != key[:SHORT_KEY]:
        raise UserError(f"--remove-work {work}: the folder must be named by the key's first {SHORT_KEY} digits.")
    if not source.resolve().is_relative_to(work.resolve()):
        raise UserError(f"--remove-work {work}: --source-dir {source} is not in it.")


def remove_work(work: Path) -> None:
    """Removes the folder. A failure is only told: the artifact is published."""
    # Renamed first: a folder with a step's output name is complete, so none may lose its files one by one.
    doomed = work.with_name(f".{work.name}.removed")
    try:
        shutil.rmtree(doomed, ignore_errors=True)  # of a call that was killed here
        if work.exists():
            work.rename(doomed)
            shutil.rmtree(doomed)
            print_line(f"removed {work}: the artifact is in the store")
    except OSError as error:
        print_line(f"{work} was not removed ({error}). Nothing needs it any more.")


if __name__ == "__main__":
    run(main)
