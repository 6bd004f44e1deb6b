"""What an artifact consists of: the path, size and sha256 of every file. An artifact is complete where its manifest is.

The manifest is JSON: {"schema": 1, "key": …, "files": [{"path", "size", "sha256"}, …], "created": …, "inputs": {…}}.
"""

import hashlib
import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any

from engine_jobs.errors import UserError

MANIFEST_NAME = "manifest.json"
SCHEMA = 1
CHUNK = 2**20


@dataclass(frozen=True, kw_only=True, order=True)
class ManifestFile:
    """One file: its path below the artifact's folder with forward slashes, its size in bytes, its sha256 in hex."""

    path: str
    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """The files in order of their paths, and what the artifact was made from."""

    key: str
    files: tuple[ManifestFile, ...]
    created: str
    inputs: Mapping[str, Any]

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files)

    @property
    def digest(self) -> str:
        """A sha256 over the files: the same for two builds that came out alike, whenever they were made."""
        return hashlib.sha256(json.dumps([asdict(file) for file in self.files]).encode()).hexdigest()

    def to_json(self) -> str:
        fields = {
            "schema": SCHEMA,
            "key": self.key,
            "files": [asdict(file) for file in self.files],
            "created": self.created,
            "inputs": self.inputs,
        }
        return json.dumps(fields, indent=1) + "\n"

    @staticmethod
    def from_json(text: str | bytes, where: str) -> "Manifest":
        """Raises UserError, naming `where`, for what is no manifest or has a schema that this program does not know."""
        try:
            fields = json.loads(text)
            schema = fields["schema"]
            if schema == SCHEMA:
                files = tuple(ManifestFile(**file) for file in fields["files"])
                for file in files:
                    if not _is_inside(file.path) or not isinstance(file.size, int) or len(file.sha256) != 64:
                        raise ValueError(f"bad entry {file}")
                return Manifest(key=fields["key"], files=files, created=fields["created"], inputs=fields["inputs"])
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(
                f"{where} is not an artifact's manifest ({type(error).__name__}: {error}). If nothing serves from "
                "that folder, delete it, and the next run builds it anew."
            ) from error
        raise UserError(f"{where} has schema {schema}, and this program reads schema {SCHEMA}: use a newer release.")

    @staticmethod
    def of_folder(folder: Path, key: str, inputs: Mapping[str, Any], workers: int = 4) -> "Manifest":
        """Hashes every file below `folder`. Raises UserError where there is none or the folder is absent."""
        if not folder.is_dir():
            raise UserError(f"{folder}: there is no such folder. Did the step before this one finish?")
        paths = sorted(path for path in folder.rglob("*") if not path.is_dir())
        if not paths:
            raise UserError(f"{folder} is empty: there is nothing to publish. Did the step before this one finish?")
        if folder / MANIFEST_NAME in paths:
            raise UserError(f"{folder / MANIFEST_NAME}: this name belongs to the artifact's manifest; rename the file.")
        with ThreadPoolExecutor(workers) as pool:
            hashes = pool.map(sha256_of, paths)
            files = tuple(
                ManifestFile(path=path.relative_to(folder).as_posix(), size=path.stat().st_size, sha256=sha256)
                for path, sha256 in zip(paths, hashes, strict=True)
            )
        return Manifest(key=key, files=tuple(sorted(files)), created=now(), inputs=inputs)


def now() -> str:
    """The time in UTC, ISO 8601, to the second."""
    return datetime.now(UTC).isoformat(timespec="seconds")


def sha256_of(path: Path) -> str:
    """The file's sha256 in hex, read in pieces."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        while chunk := stream.read(CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _is_inside(path: str) -> bool:
    parts = PurePosixPath(path).parts
    return bool(parts) and not path.startswith("/") and ".." not in parts
