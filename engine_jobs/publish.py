"""`python -m engine_jobs.publish`: uploads a folder to the artifact store, its manifest last."""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.errors import UserError, run
from engine_jobs.store import ArtifactStore


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.publish", description=__doc__)
    parser.add_argument("--source-dir", type=Path, required=True, help="the folder to publish")
    parser.add_argument("--artifact", required=True, help="where to: s3://BUCKET/PREFIX/…/KEY")
    parser.add_argument("--key", required=True, help="the artifact's content address")
    parser.add_argument("--inputs", default="{}", help="what it was made from, as a JSON object, for the manifest")
    parser.add_argument("--endpoint", help="the S3 endpoint (default: AWS_ENDPOINT_URL_S3, or AWS's own)")
    arguments = parser.parse_args(argv)
    try:
        inputs = json.loads(arguments.inputs)
    except ValueError as error:
        raise UserError(f"--inputs is not JSON: {error}.") from error
    if not isinstance(inputs, dict):
        raise UserError(f"--inputs must be a JSON object, and is {arguments.inputs}.")
    store = ArtifactStore.from_url(arguments.artifact, arguments.endpoint)
    store.publish(arguments.source_dir, "", arguments.key, inputs)


if __name__ == "__main__":
    run(main)
