"""One bucket of Google Cloud Storage, through its own client: application default credentials, or an emulator without any.

Every failure becomes a UserError that names the bucket, the endpoint and what to do.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from engine_jobs.errors import UserError
from engine_jobs.object_bucket import BucketAbsentError

if TYPE_CHECKING:
    from google.cloud.storage import Blob

PATIENCE_S = 15.0
"""How long one request is tried again after time-outs, lost connections and the server's own failures."""

TIMEOUT_S = (10.0, 60.0)
"""To connect, and between two pieces of an answer."""

CHUNK = 16 * 2**20
"""Bytes. A larger file goes in pieces of this size, and each upload at work holds one in memory; a multiple of 256 KiB."""

CREDENTIALS_HINT = (
    "On GKE annotate the ServiceAccount for Workload Identity; elsewhere run `gcloud auth application-default login`, "
    "or set GOOGLE_APPLICATION_CREDENTIALS to a key file. For an emulator set STORAGE_EMULATOR_HOST."
)

# https://cloud.google.com/storage/docs/json_api/v1/status-codes
REFUSALS = {
    400: "the server refused the request",
    401: f"the server does not know these credentials, or there were none. {CREDENTIALS_HINT}",
    403: "these credentials may not do that. Ask for roles/storage.objectAdmin on the bucket, or use others",
    429: "the server is being asked too often. Try again later",
}


class ExpectedAnswer(Exception):
    """The server answered with one of the codes that the caller asked to be told of."""


class GcsBucket:
    """Objects of one bucket by their keys. `endpoint` beats STORAGE_EMULATOR_HOST; without either it is Google's own.

    An endpoint over plain http is an emulator's: no credentials are looked for, or sent to it.
    """

    def __init__(self, name: str, endpoint: str | None = None, project: str | None = None) -> None:
        """`project`: whose the bucket becomes if it is made here (default: the credentials' own)."""
        # The client takes more than a second to import: only those who talk to a bucket pay for it.
        import google.auth
        from google.auth.credentials import AnonymousCredentials
        from google.cloud.storage import Client
        from google.cloud.storage.retry import DEFAULT_RETRY

        self.name = name
        custom = endpoint or os.environ.get("STORAGE_EMULATOR_HOST") or None
        self.endpoint = custom or "https://storage.googleapis.com"
        self._retry = DEFAULT_RETRY.with_timeout(PATIENCE_S)
        with self._explained():
            credentials: Any
            if (custom and not endpoint) or self.endpoint.startswith("http://"):
                credentials, found = AnonymousCredentials(), None  # type: ignore[no-untyped-call]
            else:
                credentials, found = google.auth.default()
            self._client: Client = Client(
                project=project or found,
                credentials=credentials,
                client_options={"api_endpoint": custom} if custom else None,
            )
        self._bucket = self._client.bucket(name)

    def url(self, key: str = "") -> str:
        return f"gs://{self.name}/{key}"

    def create(self) -> bool:
        """Makes the bucket; False where it is there already and can be used."""
        from google.api_core.exceptions import Conflict

        with self._explained():
            try:
                self._client.create_bucket(
                    self.name, project=self._client.project, timeout=TIMEOUT_S, retry=self._retry
                )
            except Conflict as error:
                if self.exists():
                    return False
                raise error
        return True

    def exists(self) -> bool:
        """Asks for a list, which the store needs anyway; to see the bucket itself takes a further permission."""
        try:
            self._list("", most=1)
        except BucketAbsentError:
            return False
        return True

    def read(self, key: str) -> bytes | None:
        """The object's bytes; None where there is no such object (a missing bucket is an error)."""
        try:
            with self._explained(key, expected=404):
                content: bytes = self._blob(key).download_as_bytes(timeout=TIMEOUT_S, retry=self._retry)
                return content
        except ExpectedAnswer:
            self._list(key, most=1)
            return None

    def write_if_absent(self, key: str, content: bytes, content_type: str = "application/json") -> bool:
        """True where this call made the object, False where it was there; the server decides between two at once.

        Where an answer was lost on its way it can be False for the one who made it.
        """
        try:
            with self._explained(key, expected=412):
                self._blob(key).upload_from_string(
                    content,
                    content_type=content_type,
                    if_generation_match=0,
                    checksum="crc32c",
                    timeout=TIMEOUT_S,
                    retry=self._retry,
                )
        except ExpectedAnswer:
            return False
        return True

    def upload(self, source: Path, key: str, sha256: str) -> None:
        """Replaces the object, which appears whole or not at all. `sha256` (hex) is kept as metadata; the client compares
        checksums (crc32c) of what it sent and what arrived."""
        blob = self._blob(key, CHUNK)
        blob.metadata = {"sha256": sha256}
        with self._explained(key):
            blob.upload_from_filename(
                str(source),
                content_type="application/octet-stream",
                checksum="crc32c",
                timeout=TIMEOUT_S,
                retry=self._retry,
            )

    def download(self, key: str, destination: Path) -> None:
        try:
            with self._explained(key, expected=404):
                self._blob(key).download_to_filename(
                    str(destination), checksum="crc32c", timeout=TIMEOUT_S, retry=self._retry
                )
        except ExpectedAnswer:
            destination.unlink(missing_ok=True)
            self._list(key, most=1)
            raise UserError(f"{self.url(key)} at {self.endpoint}: there is no such object.") from None

    def sizes(self, prefix: str) -> dict[str, int]:
        """Bytes of every object whose key begins with `prefix`."""
        return {blob.name: blob.size for blob in self._list(prefix)}

    def sha256(self, key: str) -> str | None:
        """The sha256 that `upload` noted for the object; None where there is none."""
        with self._explained(key):
            blob = self._bucket.get_blob(key, timeout=TIMEOUT_S, retry=self._retry)
        return None if blob is None else (blob.metadata or {}).get("sha256")

    def delete(self, key: str) -> None:
        try:
            with self._explained(key, expected=404):
                self._blob(key).delete(timeout=TIMEOUT_S, retry=self._retry)
        except ExpectedAnswer:
            pass

    def _blob(self, key: str, chunk_size: int | None = None) -> "Blob":
        return self._bucket.blob(key, chunk_size=chunk_size)

    def _list(self, prefix: str, most: int | None = None) -> "list[Blob]":
        """Raises BucketAbsentError where the bucket is: a list is what tells an absent bucket from an absent object."""
        with self._explained(prefix):
            return list(self._bucket.list_blobs(prefix=prefix, max_results=most, timeout=TIMEOUT_S, retry=self._retry))

    @contextmanager
    def _explained(self, key: str = "", expected: int | None = None) -> Iterator[None]:
        """Turns the client's errors into UserErrors, and one with the `expected` status into ExpectedAnswer."""
        from google.api_core.exceptions import GoogleAPICallError, NotFound, RetryError
        from google.auth.exceptions import GoogleAuthError
        from google.resumable_media import DataCorruption
        from requests.exceptions import RequestException

        what = f"{self.url(key)} at {self.endpoint}"
        try:
            yield
        except GoogleAPICallError as error:
            if error.code == expected:
                raise ExpectedAnswer from error
            if isinstance(error, NotFound):
                raise BucketAbsentError(
                    f"{what}: there is no such bucket. Make it with `python -m engine_jobs.bucket --url {self.url()}`."
                ) from error
            raise _refused(what, error) from error
        except RetryError as error:
            if isinstance(error.cause, GoogleAPICallError):
                raise _refused(what, error.cause) from error
            raise _unreachable(what, error.cause or error) from error
        except GoogleAuthError as error:
            raise UserError(f"{what}: no usable credentials ({_first_line(error)}). {CREDENTIALS_HINT}") from error
        except DataCorruption as error:
            raise UserError(f"{what}: the bytes that arrived are not those that were sent. Try again.") from error
        except RequestException as error:
            raise _unreachable(what, error) from error
        except ValueError as error:
            raise UserError(f"{what}: {type(error).__name__}: {error}") from error


def _refused(what: str, error: Any) -> UserError:
    code = int(error.code or 0)
    says = REFUSALS.get(code, "the server failed. Try again" if code >= 500 else "the server refused")
    return UserError(f"{what}: {says} ({code}: {_first_line(error.message or error)}).")


def _unreachable(what: str, error: Exception) -> UserError:
    return UserError(
        f"{what}: the endpoint can't be reached ({_first_line(error)}). Is it up, and is STORAGE_EMULATOR_HOST "
        "(or --endpoint) the right address?"
    )


def _first_line(error: object) -> str:
    """The clients put a server's whole answer into some messages."""
    return next(iter(str(error).splitlines()), type(error).__name__)[:300]
