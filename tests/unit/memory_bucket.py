"""A bucket in memory, for what needs two builders to meet at an exact point; the S3 one is tested on a real endpoint."""

import hashlib
from collections.abc import Callable
from pathlib import Path
from threading import Lock


class MemoryBucket:
    """An ObjectBucket. `before_upload` is called with the key before each upload, outside the lock."""

    def __init__(self) -> None:
        self.objects: dict[str, bytes] = {}
        self.uploads: list[str] = []
        self.before_upload: Callable[[str], None] = lambda key: None
        self._noted: dict[str, str] = {}
        self._lock = Lock()

    def url(self, key: str = "") -> str:
        return f"memory://bucket/{key}"

    def read(self, key: str) -> bytes | None:
        return self.objects.get(key)

    def write_if_absent(self, key: str, content: bytes, content_type: str = "application/json") -> bool:
        with self._lock:
            return self.objects.setdefault(key, content) is content

    def upload(self, source: Path, key: str, sha256: str) -> None:
        self.before_upload(key)
        content = source.read_bytes()
        assert hashlib.sha256(content).hexdigest() == sha256
        with self._lock:
            self.uploads.append(key)
            self.objects[key] = content
            self._noted[key] = sha256

    def download(self, key: str, destination: Path) -> None:
        destination.write_bytes(self.objects[key])

    def sizes(self, prefix: str) -> dict[str, int]:
        with self._lock:
            return {key: len(content) for key, content in self.objects.items() if key.startswith(prefix)}

    def sha256(self, key: str) -> str | None:
        return self._noted.get(key)

    def delete(self, key: str) -> None:
        with self._lock:
            self.objects.pop(key, None)
