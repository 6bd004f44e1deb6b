"""What the artifact store asks of a bucket, whoever keeps it: S3 in s3.py, GCS in gcs.py; another kind is one more class like these."""

from pathlib import Path
from typing import Protocol

from engine_jobs.errors import UserError


class BucketAbsentError(UserError):
    """The bucket itself is not there, so nothing can have been published to it."""


class ObjectBucket(Protocol):
    """Objects by their keys. Every method raises UserError, naming bucket, key and endpoint, where it fails."""

    def url(self, key: str = "") -> str: ...

    def read(self, key: str) -> bytes | None:
        """The object's bytes, None where it is absent."""

    def write_if_absent(self, key: str, content: bytes, content_type: str = ...) -> bool:
        """True where this call made the object, False where another had; never replaces one."""

    def upload(self, source: Path, key: str, sha256: str) -> None:
        """Makes or replaces the object with a file's bytes, which arrive whole or not at all."""

    def download(self, key: str, destination: Path) -> None:
        """Writes the object's bytes to a file."""

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object whose key begins with `prefix`."""

    def sha256(self, key: str) -> str | None:
        """The sha256 (hex) that `upload` was given for the object; None where there is no object or none was."""

    def delete(self, key: str) -> None:
        """Removes the object if it is there."""
