"""`python -m engine_jobs.bucket --url s3://NAME`: makes the bucket if it is absent; gs://NAME likewise."""

import argparse
import re
from collections.abc import Sequence
from urllib.parse import urlsplit

from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.gcs import GcsBucket
from engine_jobs.s3 import S3Bucket

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html; GCS takes all of these, and more."""


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.bucket", description=__doc__)
    parser.add_argument("--url", required=True, help="s3://NAME or gs://NAME")
    parser.add_argument("--endpoint", help="the store's endpoint (default: the environment's, or the cloud's own)")
    parser.add_argument("--project", help="whose a gs:// bucket becomes (default: the credentials' own)")
    arguments = parser.parse_args(argv)
    bucket = bucket_at(arguments.url, arguments.endpoint, arguments.project)
    # Asking first keeps this usable with credentials that may use the bucket and not make one.
    if bucket.exists():
        print_line(f"{bucket.url()} at {bucket.endpoint} is there already")
    elif bucket.create():
        print_line(f"made {bucket.url()} at {bucket.endpoint}")
    else:
        print_line(f"{bucket.url()} at {bucket.endpoint} was made by another at the same moment")


def bucket_at(url: str, endpoint: str | None, project: str | None) -> S3Bucket | GcsBucket:
    """The bucket that the URL names, whether it is there or not. Raises UserError for what can be none."""
    scheme, name, path, query, fragment = urlsplit(url)
    if scheme not in ("s3", "gs") or not BUCKET_NAME.fullmatch(name) or path not in ("", "/") or query or fragment:
        raise UserError(
            f"--url {url!r} is not a bucket's URL: s3:// or gs://, then 3 to 63 lower-case letters, digits, dots and hyphens."
        )
    if scheme == "gs":
        return GcsBucket(name, endpoint, project)
    if project:
        raise UserError(f"--project {project!r}: a bucket of S3 has none. Leave it out.")
    return S3Bucket(name, endpoint)


if __name__ == "__main__":
    run(main)
