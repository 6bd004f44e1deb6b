"""The models that the Hub endpoint serves: what is in a folder, with the hashes that the real Hub gives.

A model's commit is a hash of its files' names and contents, so the same files have the same revision on every machine.
"""

import hashlib
import mimetypes
import threading
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from pathlib import Path

ORGANIZATION = "llm-serving"
GATED_SUFFIX = "-gated"
BRANCH = "main"

LFS_SUFFIXES = frozenset({".safetensors", ".bin", ".pt", ".pth", ".h5", ".msgpack", ".onnx", ".model", ".gguf", ".npz"})
LFS_THRESHOLD = 10 * 2**20
"""Bytes; the real Hub refuses larger files that are not in LFS."""


@dataclass(frozen=True, kw_only=True)
class HubFile:
    """One file of a model. `git_hash` and `sha256` are of its content; the ETag is the former, for LFS the latter."""

    name: str
    source: Path
    size: int
    git_hash: str
    sha256: str

    @property
    def is_lfs(self) -> bool:
        return self.source.suffix in LFS_SUFFIXES or self.size > LFS_THRESHOLD

    @property
    def etag(self) -> str:
        return self.sha256 if self.is_lfs else self.git_hash

    @property
    def blob_id(self) -> str:
        """Git's object id: for an LFS file that of the pointer, which is what git holds."""
        return git_blob(len(self.lfs_pointer), self.lfs_pointer).hexdigest() if self.is_lfs else self.git_hash

    @property
    def content_type(self) -> str:
        return mimetypes.guess_type(self.name)[0] or "application/octet-stream"

    @cached_property
    def lfs_pointer(self) -> bytes:
        """What git holds in the place of an LFS file (https://github.com/git-lfs/git-lfs/blob/main/docs/spec.md)."""
        return f"version https://git-lfs.github.com/spec/v1\noid sha256:{self.sha256}\nsize {self.size}\n".encode()


@dataclass(frozen=True, kw_only=True)
class HubModel:
    """A model at its one commit. `gated` ones give their files only to the account with access."""

    id: str
    sha: str
    files: dict[str, HubFile]
    gated: bool
    modified: datetime

    def has_revision(self, revision: str) -> bool:
        return revision in (BRANCH, f"refs/heads/{BRANCH}", self.sha)


class Catalog:
    """The subfolders of `folder` that have a config.json, each once open and once gated. Reads anew what changed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._hashes: dict[Path, tuple[tuple[int, int], HubFile]] = {}
        self._lock = threading.Lock()

    def ids(self) -> list[str]:
        names = sorted(path.parent.name for path in self._folder.glob("*/config.json"))
        return [f"{ORGANIZATION}/{name}{suffix}" for name in names for suffix in ("", GATED_SUFFIX)]

    def find(self, model_id: str) -> HubModel | None:
        organization, _, name = model_id.partition("/")
        folder = self._folder / name.removesuffix(GATED_SUFFIX)
        if organization != ORGANIZATION or folder.parent != self._folder or not (folder / "config.json").is_file():
            return None
        paths = [path for path in sorted(folder.rglob("*")) if path.is_file() and not _is_hidden(path, folder)]
        with self._lock:
            files = {file.name: file for file in (self._file(path, folder) for path in paths)}
        commit = hashlib.sha1("".join(f"{file.sha256}  {file.name}\n" for file in files.values()).encode())
        return HubModel(
            id=model_id,
            sha=commit.hexdigest(),
            files=files,
            gated=name.endswith(GATED_SUFFIX),
            modified=datetime.fromtimestamp(max(path.stat().st_mtime for path in paths), UTC),
        )

    def _file(self, path: Path, folder: Path) -> HubFile:
        status = path.stat()
        stamp = (status.st_size, status.st_mtime_ns)
        known = self._hashes.get(path)
        if known is None or known[0] != stamp:
            blob, content = git_blob(status.st_size), hashlib.sha256()
            with path.open("rb") as stream:
                while chunk := stream.read(2**20):
                    blob.update(chunk)
                    content.update(chunk)
            file = HubFile(
                name=path.relative_to(folder).as_posix(),
                source=path,
                size=status.st_size,
                git_hash=blob.hexdigest(),
                sha256=content.hexdigest(),
            )
            known = self._hashes[path] = (stamp, file)
        return known[1]


def git_blob(size: int, content: bytes = b"") -> "hashlib._Hash":
    """Git's hash of a file of `size` bytes, fed with `content` so far."""
    return hashlib.sha1(b"blob %d\0" % size + content)


def _is_hidden(path: Path, folder: Path) -> bool:
    return any(part.startswith((".", "__")) for part in path.relative_to(folder).parts)
