"""The artifact store: folders in a bucket, each complete exactly when its manifest is there.

Files go first, the manifest last and by a conditional write, so a reader never sees half an artifact. Two builders of one
key that made the same bytes may both upload them. So that two with different bytes (some compilers are not deterministic)
can't mix theirs, a builder first makes a claim `<path>.claim.json` with the digest of its files, again conditionally.
"""

import json
import shutil
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from engine_jobs.durable import complete, full_disk_named, print_line
from engine_jobs.errors import UserError
from engine_jobs.manifest import MANIFEST_NAME, Manifest, ManifestFile, sha256_of
from engine_jobs.object_bucket import ObjectBucket

WORKERS = 8

Report = Callable[[str], None]


@dataclass(frozen=True, kw_only=True)
class Published:
    """The manifest that is in the store now, and whether this call put it there or another builder had."""

    manifest: Manifest
    made_here: bool


class ArtifactStore:
    """Artifacts below one URL. `path` is a folder relative to it; "" is the URL itself."""

    def __init__(self, bucket: ObjectBucket, prefix: str = "") -> None:
        self._bucket = bucket
        self._prefix = prefix.strip("/")

    @staticmethod
    def from_url(url: str, endpoint: str | None = None) -> "ArtifactStore":
        """A store at s3://BUCKET/PREFIX or gs://BUCKET/PREFIX. `endpoint` beats AWS_ENDPOINT_URL_S3 and STORAGE_EMULATOR_HOST.

        Raises UserError for other URLs, and where there are no credentials to begin with.
        """
        scheme, bucket, prefix, query, fragment = urlsplit(url)
        if scheme not in ("s3", "gs") or not bucket or query or fragment:
            raise UserError(
                f"{url!r} is not an artifact store's URL. Write it as s3://BUCKET/PREFIX or gs://BUCKET/PREFIX."
            )
        # The clients of the two clouds take long to import, and no program needs both.
        if scheme == "gs":
            from engine_jobs.gcs import GcsBucket

            return ArtifactStore(GcsBucket(bucket, endpoint), prefix)
        from engine_jobs.s3 import S3Bucket

        return ArtifactStore(S3Bucket(bucket, endpoint), prefix)

    def url(self, path: str = "") -> str:
        return self._bucket.url(self._key(path))

    def is_complete(self, path: str = "") -> bool:
        """Whether the artifact can be used. Raises BucketAbsentError where even the bucket is missing."""
        return self.manifest(path) is not None

    def manifest(self, path: str = "") -> Manifest | None:
        """The artifact's manifest; None where it is absent or still being uploaded."""
        key = self._key(path, MANIFEST_NAME)
        content = self._bucket.read(key)
        return None if content is None else Manifest.from_json(content, self._bucket.url(key))

    def publish(
        self, local_dir: Path, path: str, key: str, inputs: Mapping[str, Any], report: Report = print_line
    ) -> Published:
        """Uploads the folder as the artifact `path`, or leaves the one that is there. Goes on where a killed call stopped.

        Raises UserError where the store can't be used, or another builder is uploading different bytes for this key.
        """
        if not self._key(path):
            raise UserError(f"{self.url()} is a whole bucket: give the artifact a folder of its own below it.")
        own = Manifest.of_folder(local_dir, key, inputs)
        if (there := self.manifest(path)) is not None:
            return self._other_publisher(path, own, there, report)
        claim = self._key(path) + ".claim.json"
        self._claim(claim, path, own)
        # Whoever published in between had removed its claim after its manifest: so look once more.
        if (there := self.manifest(path)) is not None:
            self._bucket.delete(claim)
            return self._other_publisher(path, own, there, report)

        self._remove_leftovers(path, own, report)
        self._upload(local_dir, path, own, report)
        self._verify(path, own)
        made_here = self._bucket.write_if_absent(self._key(path, MANIFEST_NAME), own.to_json().encode())
        self._bucket.delete(claim)
        if not made_here and (there := self.manifest(path)) is not None:
            return self._other_publisher(path, own, there, report)
        report(f"published {self.url(path)}: {len(own.files)} files, {own.size} bytes")
        return Published(manifest=own, made_here=True)

    def download(self, path: str, dest: Path, report: Report = print_line) -> Manifest:
        """Fills `dest` with the artifact: written beside, checked against the manifest, then renamed.

        Leaves a `dest` that holds this artifact already. Raises UserError where the artifact is absent or damaged.
        """
        manifest = self.manifest(path)
        if manifest is None:
            raise UserError(f"{self.url(path)} is not complete: it has no {MANIFEST_NAME}. Run the Jobs that build it.")
        if dest.exists():
            if _holds(dest, manifest):
                report(f"{dest} holds {self.url(path)} already")
                return manifest
            raise UserError(f"{dest} exists and is not {self.url(path)}: remove it or choose another folder.")
        partial = partial_of(dest, manifest)
        self._check_space(partial, manifest)
        with full_disk_named(partial):
            _each(lambda file: self._download_file(path, file, partial), manifest.files)
            (partial / MANIFEST_NAME).write_text(manifest.to_json())
            complete(partial, dest)
        report(f"downloaded {self.url(path)} to {dest}: {len(manifest.files)} files, {manifest.size} bytes")
        return manifest

    def _key(self, *parts: str) -> str:
        return "/".join(part.strip("/") for part in (self._prefix, *parts) if part.strip("/"))

    def _claim(self, claim: str, path: str, own: Manifest) -> None:
        content = json.dumps({"digest": own.digest, "created": own.created}).encode()
        if self._bucket.write_if_absent(claim, content):
            return
        other = json.loads(self._bucket.read(claim) or content)
        # A manifest ends the contest whoever holds the claim; publish() looks for it next.
        if other["digest"] != own.digest and not self.is_complete(path):
            raise UserError(
                f"{self.url(path)} is being published with other bytes by a builder that began at {other['created']}. "
                f"Wait for it and run this again. If it died, remove {self._bucket.url(claim)} first."
            )

    def _other_publisher(self, path: str, own: Manifest, there: Manifest, report: Report) -> Published:
        same = "the same files" if there.digest == own.digest else "other bytes for the same key; they stay"
        report(f"{self.url(path)} was published already, at {there.created}, with {same}")
        return Published(manifest=there, made_here=False)

    def _remove_leftovers(self, path: str, own: Manifest, report: Report) -> None:
        folder = self._key(path) + "/"
        wanted = {folder + file.path for file in own.files} | {folder + MANIFEST_NAME}
        for key in sorted(self._bucket.sizes(folder).keys() - wanted):
            report(f"removing {self._bucket.url(key)}, which an unfinished upload left")
            self._bucket.delete(key)

    def _upload(self, local_dir: Path, path: str, own: Manifest, report: Report) -> None:
        sizes = self._bucket.sizes(self._key(path) + "/")

        def upload(file: ManifestFile) -> None:
            key = self._key(path, file.path)
            if sizes.get(key) == file.size and self._bucket.sha256(key) == file.sha256:
                report(f"{file.path}: {file.size} bytes, there already")
                return
            self._bucket.upload(local_dir / file.path, key, file.sha256)
            report(f"{file.path}: {file.size} bytes uploaded")

        _each(upload, own.files)

    def _verify(self, path: str, own: Manifest) -> None:
        sizes = self._bucket.sizes(self._key(path) + "/")
        for file in own.files:
            size = sizes.get(self._key(path, file.path))
            if size != file.size:
                raise UserError(
                    f"{self.url(path)}/{file.path} has {size or 'no'} bytes after the upload, and should have "
                    f"{file.size}. The artifact was not published; run this again."
                )

    def _download_file(self, path: str, file: ManifestFile, folder: Path) -> None:
        target = folder / file.path
        if target.is_file() and target.stat().st_size == file.size and sha256_of(target) == file.sha256:
            return
        target.parent.mkdir(parents=True, exist_ok=True)
        self._bucket.download(self._key(path, file.path), target)
        if target.stat().st_size != file.size or sha256_of(target) != file.sha256:
            target.unlink()
            raise UserError(
                f"{self.url(path)}/{file.path} is not what its manifest says (sha256 {file.sha256}). Try again; if it "
                f"stays so, the object was changed: delete {self.url(path)} and let the Jobs build it anew."
            )

    def _check_space(self, partial: Path, manifest: Manifest) -> None:
        partial.parent.mkdir(parents=True, exist_ok=True)
        free = shutil.disk_usage(partial.parent).free
        there = sum(path.stat().st_size for path in partial.rglob("*") if path.is_file())
        if free < manifest.size - there:
            raise UserError(
                f"{partial.parent} has {free} bytes free, and {manifest.size - there} of {self.url()} are to come. "
                "Make room, or give the model a larger disk, and run this again."
            )


def partial_of(dest: Path, manifest: Manifest) -> Path:
    """Where a download to `dest` is until it is complete: beside it, and another for other bytes."""
    return dest.with_name(f"{dest.name}.partial-{manifest.digest[:12]}")


def _each(work: Callable[[ManifestFile], None], files: Iterable[ManifestFile]) -> None:
    """Does the work for each file, several at a time; the first failure ends it and is raised."""
    with ThreadPoolExecutor(WORKERS) as pool:
        pending = [pool.submit(work, file) for file in files]
        try:
            for done in pending:
                done.result()
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise


def _holds(folder: Path, manifest: Manifest) -> bool:
    try:
        noted = Manifest.from_json((folder / MANIFEST_NAME).read_bytes(), str(folder / MANIFEST_NAME))
        return noted.digest == manifest.digest and all(
            (folder / file.path).stat().st_size == file.size for file in manifest.files
        )
    except (OSError, UserError):
        return False
