"""`engine_jobs.publish` against a real S3 endpoint: killed, raced, refused, and never half done."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine_jobs import s3
from engine_jobs.errors import UserError
from engine_jobs.object_bucket import BucketAbsentError
from engine_jobs.s3 import S3Bucket
from engine_jobs.store import ArtifactStore
from tests.unit.s3_endpoint import S3Endpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "fastertransformer" / "1").mkdir(parents=True)
    (folder / "fastertransformer" / "config.pbtxt").write_text('name: "fastertransformer"\n')
    for number in range(12):
        (folder / "fastertransformer" / "1" / f"model.{number}.bin").write_bytes(os.urandom(200_000))
    return folder


@pytest.fixture
def url(bucket: str) -> str:
    return f"s3://{bucket}/artifacts/ft/tiny/0123"


@pytest.fixture
def in_process(s3_server: S3Endpoint, monkeypatch: pytest.MonkeyPatch) -> None:
    """The endpoint's settings for boto3 in this process."""
    for name in [name for name in os.environ if name.startswith("AWS_")]:
        monkeypatch.delenv(name)
    for name, value in s3_server.environment().items():
        if name.startswith("AWS_"):
            monkeypatch.setenv(name, value)


def publishing(source: Path, url: str) -> tuple[str | Path, ...]:
    return ("--source-dir", source, "--artifact", url, "--key", "0123" * 16, "--inputs", '{"model": "tiny"}')


def same_files(one: Path, other: Path) -> bool:
    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read(one) == read(other)


class TestAPublishedArtifact:
    def test_comes_back_byte_for_byte(
        self, s3_server: S3Endpoint, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        code, output = s3_server.run("publish", *publishing(source, url))
        assert (code, output.splitlines()[-1]) == (0, f"published {url}: 13 files, 2400026 bytes")
        manifest = ArtifactStore.from_url(url).download("", tmp_path / "copy")
        assert (manifest.key, manifest.inputs) == ("0123" * 16, {"model": "tiny"})
        assert same_files(source, tmp_path / "copy")

    def test_is_left_alone_by_a_second_run(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        s3_server.run("publish", *publishing(source, url))
        code, output = s3_server.run("publish", *publishing(source, url))
        assert code == 0
        assert "was published already" in output
        assert "uploaded" not in output

    def test_may_have_files_that_go_in_parts(
        self, source: Path, url: str, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "SINGLE_PUT_LIMIT", 1_000_000)
        (source / "large.bin").write_bytes(os.urandom(20_000_000))
        store = ArtifactStore.from_url(url)
        store.publish(source, "", "0123" * 16, {})
        store.download("", tmp_path / "copy")
        assert same_files(source, tmp_path / "copy")


class TestTwoPublishersOfOneKey:
    def test_as_processes_both_succeed_and_one_of_them_made_it(
        self, s3_server: S3Endpoint, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        processes = [s3_server.start("publish", publishing(source, url)) for _ in range(3)]
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], outputs
        assert sum(f"published {url}" in output for output in outputs) == 1
        ArtifactStore.from_url(url).download("", tmp_path / "copy")
        assert same_files(source, tmp_path / "copy")

    def test_are_told_apart_by_the_server(self, bucket: str, in_process: None) -> None:
        writers = 8
        start = threading.Barrier(writers)

        def write(number: int) -> bool:
            mine = S3Bucket(bucket)
            start.wait(10)
            return mine.write_if_absent("contested", b"%d" % number)

        with ThreadPoolExecutor(writers) as pool:
            made = list(pool.map(write, range(writers)))
        assert made.count(True) == 1
        assert S3Bucket(bucket).read("contested") == b"%d" % made.index(True)


class TestAKilledPublisher:
    def test_leaves_no_artifact_and_the_next_goes_on(
        self, s3_server: S3Endpoint, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        for number in range(60):
            (source / f"more{number:02}.bin").write_bytes(os.urandom(500_000))
        process = s3_server.start("publish", publishing(source, url))
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("more"):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = ArtifactStore.from_url(url)
        assert not store.is_complete()

        code, output = s3_server.run("publish", *publishing(source, url))
        assert code == 0
        assert "there already" in output
        assert store.is_complete()
        store.download("", tmp_path / "copy")
        assert same_files(source, tmp_path / "copy")


class TestAStoreThatCantBeUsedIsNamed:
    def fails(self, s3_server: S3Endpoint, source: Path, url: str, **changes: str) -> str:
        code, output = s3_server.run("publish", *publishing(source, url), **changes)
        assert code == 1
        assert output.startswith("error: ")
        assert output.count("\n") == 1, output
        assert s3_server.secret_key not in output
        return output

    def test_with_no_such_bucket(self, s3_server: S3Endpoint, source: Path) -> None:
        output = self.fails(s3_server, source, "s3://absent-bucket/k")
        assert f"s3://absent-bucket/k/manifest.json at {s3_server.url}: there is no such bucket" in output
        assert "python -m engine_jobs.bucket --bucket" in output

    def test_with_a_wrong_secret(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        output = self.fails(s3_server, source, url, AWS_SECRET_ACCESS_KEY="wrong")
        assert "the secret key is wrong for this access key" in output
        assert "AWS_SHARED_CREDENTIALS_FILE" in output

    def test_with_an_unknown_key(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        output = self.fails(s3_server, source, url, AWS_ACCESS_KEY_ID="NOBODY")
        assert "the server does not know this access key" in output

    def test_without_credentials(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        output = self.fails(s3_server, source, url, AWS_ACCESS_KEY_ID="", AWS_SECRET_ACCESS_KEY="")
        assert "no usable credentials" in output

    def test_when_nobody_listens(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        output = self.fails(s3_server, source, url, AWS_ENDPOINT_URL_S3="http://127.0.0.1:1")
        assert "at http://127.0.0.1:1: the endpoint can't be reached" in output
        assert "AWS_ENDPOINT_URL_S3" in output

    def test_with_an_address_that_is_none(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        assert "nonsense" in self.fails(s3_server, source, url, AWS_ENDPOINT_URL_S3="nonsense")

    def test_to_the_preview_as_an_absent_bucket(self, in_process: None, s3_server: S3Endpoint) -> None:
        with pytest.raises(BucketAbsentError):
            ArtifactStore.from_url("s3://absent-bucket/k").is_complete()


class TestDamageInTheStore:
    def test_is_found_when_downloading(
        self, s3_server: S3Endpoint, bucket: str, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        store = ArtifactStore.from_url(url)
        store.publish(source, "", "0123" * 16, {})
        stored = s3_server.folder / bucket / "artifacts/ft/tiny/0123/fastertransformer/1/model.3.bin"
        content = bytearray(stored.read_bytes())
        content[1000] ^= 1
        with stored.open("r+b") as stream:
            stream.write(content)
        with pytest.raises(UserError, match=r"model\.3\.bin"):
            store.download("", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


class TestArguments:
    def test_inputs_must_be_a_json_object(self, s3_server: S3Endpoint, source: Path, url: str) -> None:
        for text, message in (("{", "--inputs is not JSON"), ("[1]", "--inputs must be a JSON object")):
            code, output = s3_server.run(
                "publish", "--source-dir", source, "--artifact", url, "--key", "k", "--inputs", text
            )
            assert (code, output.startswith(f"error: {message}")) == (1, True)

    def test_source_must_be_there(self, s3_server: S3Endpoint, url: str, tmp_path: Path) -> None:
        code, output = s3_server.run("publish", *publishing(tmp_path / "absent", url))
        assert (code, "absent: there is no such folder" in output) == (1, True)

    def test_inputs_reach_the_manifest(self, s3_server: S3Endpoint, bucket: str, source: Path, url: str) -> None:
        s3_server.run("publish", *publishing(source, url))
        manifest = json.loads((s3_server.folder / bucket / "artifacts/ft/tiny/0123/manifest.json").read_text())
        assert (manifest["schema"], manifest["inputs"]) == (1, {"model": "tiny"})
