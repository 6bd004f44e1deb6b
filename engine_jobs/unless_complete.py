"""`python -m engine_jobs.unless_complete --artifact URL -- COMMAND …`: becomes the command, unless the artifact is there."""

import argparse
import os
from collections.abc import Sequence

from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.store import ArtifactStore


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.unless_complete",
        usage="%(prog)s --artifact URL [--endpoint URL] -- COMMAND [ARGUMENT …]",
        description="Runs the command in its own place, unless the artifact is complete in the store.",
    )
    parser.add_argument("--artifact", required=True, help="s3://BUCKET/PREFIX/…/KEY or gs://…")
    parser.add_argument("--endpoint", help="the store's endpoint (default: the environment's, or the cloud's own)")
    place = list(argv).index("--") if "--" in argv else len(argv)
    arguments, command = parser.parse_args(argv[:place]), list(argv[place + 1 :])
    if not command:
        parser.error("no command given: put it after --")
    if ArtifactStore.from_url(arguments.artifact, arguments.endpoint).is_complete():
        print_line(f"{arguments.artifact} is complete in the store, nothing to do")
        return
    try:
        os.execvp(command[0], command)
    except OSError as error:
        raise UserError(f"can't run {command[0]}: {error.strerror}.") from error


if __name__ == "__main__":
    run(main)
