"""One S3 bucket, through boto3 and its own chains for credentials, region and endpoint (AWS_ENDPOINT_URL_S3).

Every failure becomes a UserError that names the bucket, the endpoint and what to do.
"""

import base64
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from engine_jobs.errors import UserError
from engine_jobs.object_bucket import BucketAbsentError

if TYPE_CHECKING:
    from botocore.exceptions import ClientError
    from mypy_boto3_s3 import S3Client

SINGLE_PUT_LIMIT = 64 * 2**20
"""Bytes. Up to here a file goes in one request whose sha256 the server checks; above, in parts with checksums each."""

DEFAULT_REGION = "us-east-1"

CONFLICT_ATTEMPTS = 5

CREDENTIALS_HINT = (
    "Set AWS_SHARED_CREDENTIALS_FILE (or AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY) to a key pair of this endpoint."
)

# Codes: https://docs.aws.amazon.com/AmazonS3/latest/API/ErrorResponses.html; a bare number where HEAD has no body.
REFUSALS = {
    "NoSuchBucket": "there is no such bucket. Make it with `python -m engine_jobs.bucket --url s3://NAME`",
    "NoSuchKey": "there is no such object",
    "404": "there is no such bucket or object",
    "InvalidAccessKeyId": f"the server does not know this access key. {CREDENTIALS_HINT}",
    "XAdminUserNotFound": f"the server does not know this access key. {CREDENTIALS_HINT}",  # versitygw's code for it
    "SignatureDoesNotMatch": f"the secret key is wrong for this access key. {CREDENTIALS_HINT}",
    "ExpiredToken": f"the session's credentials have expired. {CREDENTIALS_HINT}",
    "AccessDenied": "these credentials may not do that. Ask for read, write and list on the bucket, or use others",
    "403": "these credentials are wrong, or may not do that. Ask for read, write and list on the bucket, or use others",
    "NotImplemented": "this server lacks what the artifact store needs (conditional writes, checksums)",
    "QuotaExceeded": "the bucket is full",
    "BadDigest": "the bytes that arrived are not those that were sent. Try again",
}


class ExpectedAnswer(Exception):
    """The server answered with one of the codes that the caller asked to be told of."""


class S3Bucket:
    """Objects of one bucket by their keys. `endpoint` beats AWS_ENDPOINT_URL_S3; without either it is AWS's own."""

    def __init__(self, name: str, endpoint: str | None = None) -> None:
        # boto3 takes 0.3 s to import: only those who talk to a bucket pay for it.
        import boto3
        from botocore.config import Config

        self.name = name
        session = boto3.session.Session()
        custom = endpoint or os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL")
        config = Config(
            connect_timeout=10,
            read_timeout=60,
            retries={"mode": "standard", "total_max_attempts": 5},
            max_pool_connections=32,
            # An endpoint of one's own seldom has a DNS name for each bucket.
            s3={"addressing_style": "path" if custom else "auto"},
        )
        with self._explained():
            self._client: S3Client = session.client(
                "s3", endpoint_url=endpoint, region_name=session.region_name or DEFAULT_REGION, config=config
            )
        self.endpoint = self._client.meta.endpoint_url
        self.region = self._client.meta.region_name

    def url(self, key: str = "") -> str:
        return f"s3://{self.name}/{key}"

    def create(self) -> bool:
        """Makes the bucket; False where it is there already and ours."""
        with self._explained():
            try:
                if self.region == DEFAULT_REGION:
                    self._client.create_bucket(Bucket=self.name)
                else:
                    # The type stubs list AWS's regions; another provider may have others.
                    place = {"LocationConstraint": self.region}
                    self._client.create_bucket(Bucket=self.name, CreateBucketConfiguration=place)  # type: ignore[arg-type]
            except self._client.exceptions.BucketAlreadyOwnedByYou:
                return False
            except self._client.exceptions.BucketAlreadyExists:
                # Some servers answer so for one's own bucket as well: ask whether it can be used.
                self._client.head_bucket(Bucket=self.name)
                return False
        return True

    def exists(self) -> bool:
        try:
            with self._explained(expected=("404", "NoSuchBucket")):
                self._client.head_bucket(Bucket=self.name)
        except ExpectedAnswer:
            return False
        return True

    def read(self, key: str) -> bytes | None:
        """The object's bytes; None where there is no such object (a missing bucket is an error)."""
        try:
            with self._explained(key, expected=("NoSuchKey", "404")):
                return self._client.get_object(Bucket=self.name, Key=key)["Body"].read()
        except ExpectedAnswer:
            return None

    def write_if_absent(self, key: str, content: bytes, content_type: str = "application/json") -> bool:
        """True where this call made the object, False where it was there; the server decides between two at once."""
        for _ in range(CONFLICT_ATTEMPTS):
            try:
                with self._explained(key, expected=("PreconditionFailed", "412", "ConditionalRequestConflict")):
                    self._client.put_object(
                        Bucket=self.name, Key=key, Body=content, ContentType=content_type, IfNoneMatch="*"
                    )
                return True
            except ExpectedAnswer:
                pass
            if self.read(key) is not None:
                return False
            time.sleep(1)  # a conflict: the other writer of the same moment may still fail
        raise UserError(f"{self.url(key)} at {self.endpoint}: {CONFLICT_ATTEMPTS} writes at once failed. Try again.")

    def upload(self, source: Path, key: str, sha256: str) -> None:
        """Replaces the object. `sha256` (hex) is checked by the server, or part by part, and kept as metadata."""
        metadata = {"sha256": sha256}
        with self._explained(key):
            if source.stat().st_size <= SINGLE_PUT_LIMIT:
                checksum = base64.b64encode(bytes.fromhex(sha256)).decode()
                with source.open("rb") as body:
                    self._client.put_object(
                        Bucket=self.name, Key=key, Body=body, Metadata=metadata, ChecksumSHA256=checksum
                    )
            else:
                extra = {"Metadata": metadata, "ChecksumAlgorithm": "SHA256"}
                self._client.upload_file(str(source), self.name, key, ExtraArgs=extra)

    def download(self, key: str, destination: Path) -> None:
        with self._explained(key):
            self._client.download_file(self.name, key, str(destination))

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object whose key begins with `prefix`."""
        found: dict[str, int] = {}
        with self._explained(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(Bucket=self.name, Prefix=prefix):
                found.update({item["Key"]: item["Size"] for item in page.get("Contents", [])})
        return found

    def sha256(self, key: str) -> str | None:
        """The sha256 that `upload` noted for the object; None where there is none."""
        try:
            with self._explained(key, expected=("404", "NoSuchKey")):
                return self._client.head_object(Bucket=self.name, Key=key)["Metadata"].get("sha256")
        except ExpectedAnswer:
            return None

    def delete(self, key: str) -> None:
        with self._explained(key):
            self._client.delete_object(Bucket=self.name, Key=key)

    @contextmanager
    def _explained(self, key: str = "", expected: tuple[str, ...] = ()) -> Iterator[None]:
        """Turns boto3's errors into UserErrors, and those with an `expected` code into ExpectedAnswer."""
        from boto3.exceptions import Boto3Error
        from botocore.exceptions import BotoCoreError, ClientError

        try:
            yield
        except ClientError as error:
            if error.response["Error"]["Code"] in expected:
                raise ExpectedAnswer from error
            raise self._refused(error, key) from error
        except Boto3Error as error:
            # s3transfer's own errors wrap the one that tells the reason.
            reason = error.__cause__ or error.__context__
            raise self._refused(reason, key) if isinstance(reason, ClientError) else self._failed(error, key) from error
        except (BotoCoreError, ValueError) as error:
            raise self._failed(error, key) from error

    def _refused(self, error: "ClientError", key: str) -> UserError:
        code = error.response["Error"]["Code"]
        message = error.response["Error"].get("Message", "")
        what = f"{self.url(key)} at {self.endpoint}"
        kind = BucketAbsentError if code == "NoSuchBucket" else UserError
        return kind(f"{what}: {REFUSALS.get(code, 'the server refused')} ({code}: {message}).")

    def _failed(self, error: Exception, key: str) -> UserError:
        kind = type(error).__name__
        what = f"{self.url(key)} at {getattr(self, 'endpoint', 'AWS')}"
        if kind in ("NoCredentialsError", "PartialCredentialsError", "CredentialRetrievalError", "ProfileNotFound"):
            return UserError(f"{what}: no usable credentials ({error}). {CREDENTIALS_HINT}")
        if "Connect" in kind or "Timeout" in kind or kind in ("SSLError", "HTTPClientError", "ResponseStreamingError"):
            return UserError(
                f"{what}: the endpoint can't be reached ({error}). Is it up, and is AWS_ENDPOINT_URL_S3 "
                "(or --endpoint) the right address?"
            )
        return UserError(f"{what}: {kind}: {error}")
