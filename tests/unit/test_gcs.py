"""The GCS bucket's own side: what Google's servers refuse is told in words, and a killed emulator's folder is put right."""

import hashlib
import json
import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from engine_jobs import gcs
from engine_jobs.errors import UserError
from engine_jobs.gcs import GcsBucket
from localcluster.gcs_endpoint import ATTRIBUTES, remove_unfinished
from tests.unit.gcs_endpoint import GcsEndpoint, gcs_endpoint


@contextmanager
def answering(status: int, message: str) -> Iterator[str]:
    """The URL of a server that answers every request as Google's JSON API does when it refuses."""

    class Handler(BaseHTTPRequestHandler):
        def answer(self) -> None:
            self.rfile.read(int(self.headers.get("Content-Length") or 0))
            body = json.dumps({"error": {"code": status, "message": message}}).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_POST = do_PUT = do_DELETE = answer

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        server.server_close()


class TestARefusalIsNamed:
    @pytest.mark.parametrize(
        ("status", "message"),
        [
            (401, "no usable credentials (Anonymous credentials cannot be refreshed.)"),
            (403, "these credentials may not do that. Ask for roles/storage.objectAdmin"),
            (409, "the server refused"),
            (500, "the server failed. Try again"),
        ],
    )
    def test_whatever_was_asked(
        self, status: int, message: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(gcs, "PATIENCE_S", 1.0)
        (tmp_path / "file").write_bytes(b"x")
        with answering(status, "Caller does not have storage.objects.get access") as endpoint:
            bucket = GcsBucket("models", endpoint)
            for ask in (
                lambda: bucket.read("k"),
                lambda: bucket.sizes("k"),
                lambda: bucket.sha256("k"),
                lambda: bucket.write_if_absent("k", b"x"),
                lambda: bucket.upload(tmp_path / "file", "k", "0" * 64),
                lambda: bucket.download("k", tmp_path / "copy"),
                lambda: bucket.delete("k"),
            ):
                with pytest.raises(UserError) as caught:
                    ask()
                assert str(caught.value).startswith(f"gs://models/k at {endpoint}: {message}")

    def test_a_bucket_of_somebody_else(self) -> None:
        with (
            answering(403, "no access") as endpoint,
            pytest.raises(UserError, match="these credentials may not do that"),
        ):
            GcsBucket("models", endpoint).exists()


class TestCredentials:
    def test_are_never_looked_for_at_an_emulator(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/absent.json")
        GcsBucket("models", "http://127.0.0.1:1")
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
        GcsBucket("models")

    def test_are_needed_at_an_endpoint_over_https(self, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", "/absent.json")
        with pytest.raises(UserError, match=r"at https://storage\.example: no usable credentials.*absent\.json"):
            GcsBucket("models", "https://storage.example")


class TestAnObject:
    @pytest.fixture
    def bucket(self, gcs_server: GcsEndpoint) -> GcsBucket:
        bucket = GcsBucket("objects", gcs_server.url)
        bucket.create()
        return bucket

    @pytest.mark.parametrize("size", [0, 3, 9_000_000])
    def test_comes_back_with_its_hash_whatever_its_name_and_size(
        self, bucket: GcsBucket, tmp_path: Path, size: int
    ) -> None:
        source = tmp_path / "source"
        source.write_bytes(os.urandom(size))
        sha256 = hashlib.sha256(source.read_bytes()).hexdigest()
        key = f"a/é ü+%41/{size}"
        bucket.upload(source, key, sha256)
        bucket.download(key, tmp_path / "copy")
        assert (tmp_path / "copy").read_bytes() == source.read_bytes()
        assert bucket.sha256(key) == sha256
        assert bucket.sizes(key) == {key: size}

    def test_that_is_absent_leaves_no_file(self, bucket: GcsBucket, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=r"gs://objects/absent at .*: there is no such object\."):
            bucket.download("absent", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()
        assert (bucket.read("absent"), bucket.sha256("absent")) == (None, None)
        bucket.delete("absent")


class TestAKilledServer:
    def test_begins_again_without_what_it_left_half_written(self, tmp_path: Path) -> None:
        folder = tmp_path / "store"
        with gcs_endpoint(folder) as endpoint:
            bucket = GcsBucket("models", endpoint.url)
            bucket.create()
            assert bucket.write_if_absent("a/whole", b"content")
        (folder / "models" / "a" / ".part-0123").write_bytes(b"con")
        with gcs_endpoint(folder) as endpoint:
            bucket = GcsBucket("models", endpoint.url)
            assert bucket.sizes("") == {"a/whole": 7}
            assert bucket.read("a/whole") == b"content"

    def test_on_a_file_system_without_attributes_likewise(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def unsupported(path: Path, name: str) -> bytes:
            assert name == ATTRIBUTES
            raise OSError(95, "Operation not supported", str(path))

        monkeypatch.setattr(os, "getxattr", unsupported)
        for name in ("models/whole", "models/whole.metadata", "models/part", "models.bucketMetadata"):
            (tmp_path / name).parent.mkdir(exist_ok=True)
            (tmp_path / name).write_bytes(b"x")
        assert remove_unfinished(tmp_path) == [tmp_path / "models" / "part"]
        assert (tmp_path / "models.bucketMetadata").exists()
