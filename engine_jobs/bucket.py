"""`python -m engine_jobs.bucket --bucket NAME`: makes the bucket if it is absent."""

import argparse
import re
from collections.abc import Sequence

from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.s3 import S3Bucket

BUCKET_NAME = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
"""https://docs.aws.amazon.com/AmazonS3/latest/userguide/bucketnamingrules.html"""


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.bucket", description=__doc__)
    parser.add_argument("--bucket", required=True, help="the bucket's name, without s3://")
    parser.add_argument("--endpoint", help="the S3 endpoint (default: AWS_ENDPOINT_URL_S3, or AWS's own)")
    arguments = parser.parse_args(argv)
    if not BUCKET_NAME.fullmatch(arguments.bucket):
        raise UserError(
            f"--bucket {arguments.bucket!r} is not a bucket's name: 3 to 63 lower-case letters, digits, dots and hyphens."
        )
    bucket = S3Bucket(arguments.bucket, arguments.endpoint)
    # Asking first keeps this usable with credentials that may use the bucket and not make one.
    if bucket.exists():
        print_line(f"{bucket.url()} at {bucket.endpoint} is there already")
    elif bucket.create():
        print_line(f"made {bucket.url()} at {bucket.endpoint}")
    else:
        print_line(f"{bucket.url()} at {bucket.endpoint} was made by another at the same moment")


if __name__ == "__main__":
    run(main)
