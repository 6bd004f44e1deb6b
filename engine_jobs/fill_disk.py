"""`python -m engine_jobs.fill_disk --artifact URL --output-dir DIR`: brings an artifact from the store to a disk, complete or absent.

The files go to a folder beside DIR, each is compared with the manifest, and only then the folder gets its name. Run again
after a kill, it keeps the files that were complete.
"""

import argparse
import errno
import shutil
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from glob import escape
from pathlib import Path

from engine_jobs.durable import only_one, print_line
from engine_jobs.errors import UserError, run
from engine_jobs.store import ArtifactStore, partial_of

REFUSALS = {
    errno.EROFS: "the disk is mounted read-only. Let its claim be written to, by one node at a time",
    errno.EACCES: "this user may not write there. The disk's folder must belong to uid 1000 or be open to all (mode 1777)",
    errno.EIO: "the disk does not take what is written to it (I/O error)",
}
"""What a disk says that can't be written to; a full one is told by engine_jobs.durable."""


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.fill_disk", description=__doc__)
    parser.add_argument("--artifact", required=True, help="where from: s3://BUCKET/PREFIX/…/KEY or gs://…")
    parser.add_argument("--output-dir", type=Path, required=True, help="gets its name when it is complete")
    parser.add_argument("--endpoint", help="the store's endpoint (default: the environment's, or the cloud's own)")
    arguments = parser.parse_args(argv)
    fill_disk(ArtifactStore.from_url(arguments.artifact, arguments.endpoint), arguments.output_dir)


def fill_disk(store: ArtifactStore, output: Path) -> None:
    """Makes `output` hold the artifact. Raises UserError where it can't; `output` is then as it was."""
    if output.exists():  # also on a disk that is read-only by now
        store.download("", output)
        return
    with refusals_named(output), only_one(output):
        manifest = store.manifest()
        # What other bytes of this artifact left unfinished. Nobody else is at it: we hold the lock.
        wanted = None if manifest is None else partial_of(output, manifest)
        for stale in set(output.parent.glob(f"{escape(output.name)}.partial-*")) - {wanted}:
            print_line(f"removing {stale}, which was never finished")
            shutil.rmtree(stale)
        store.download("", output)


@contextmanager
def refusals_named(output: Path) -> Iterator[None]:
    """Turns a disk's refusal into a UserError that names the folder and what to do."""
    try:
        yield
    except OSError as error:
        if error.errno not in REFUSALS:
            raise
        raise UserError(f"{error.filename or output}: {REFUSALS[error.errno]}.") from error


if __name__ == "__main__":
    run(main)
