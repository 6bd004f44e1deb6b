"""`engine_jobs.publish` against real S3 and GCS endpoints: killed, raced, refused, and never half done."""

import json
import os
import signal
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine_jobs import gcs, s3
from engine_jobs.bucket import bucket_at
from engine_jobs.errors import UserError
from engine_jobs.object_bucket import BucketAbsentError
from engine_jobs.store import ArtifactStore
from tests.unit.gcs_endpoint import GcsEndpoint
from tests.unit.s3_endpoint import S3Endpoint
from tests.unit.store_endpoint import StoreEndpoint


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "fastertransformer" / "1").mkdir(parents=True)
    (folder / "fastertransformer" / "config.pbtxt").write_text('name: "fastertransformer"\n')
    for number in range(12):
        (folder / "fastertransformer" / "1" / f"model.{number}.bin").write_bytes(os.urandom(200_000))
    return folder


@pytest.fixture
def url(store_server: StoreEndpoint, bucket: str) -> str:
    return f"{store_server.scheme}://{bucket}/artifacts/ft/tiny/0123"


def publishing(source: Path, url: str) -> tuple[str | Path, ...]:
    return ("--source-dir", source, "--artifact", url, "--key", "0123" * 16, "--inputs", '{"model": "tiny"}')


def same_files(one: Path, other: Path) -> bool:
    def read(folder: Path) -> dict[str, bytes]:
        files = (path for path in folder.rglob("*") if path.is_file() and path.name != "manifest.json")
        return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}

    return read(one) == read(other)


class TestAPublishedArtifact:
    def test_comes_back_byte_for_byte(
        self, store_server: StoreEndpoint, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        code, output = store_server.run("publish", *publishing(source, url))
        assert (code, output.splitlines()[-1]) == (0, f"published {url}: 13 files, 2400026 bytes")
        manifest = ArtifactStore.from_url(url).download("", tmp_path / "copy")
        assert (manifest.key, manifest.inputs) == ("0123" * 16, {"model": "tiny"})
        assert same_files(source, tmp_path / "copy")

    def test_is_left_alone_by_a_second_run(self, store_server: StoreEndpoint, source: Path, url: str) -> None:
        store_server.run("publish", *publishing(source, url))
        code, output = store_server.run("publish", *publishing(source, url))
        assert code == 0
        assert "was published already" in output
        assert "uploaded" not in output

    def test_may_have_files_that_go_in_parts(
        self, source: Path, url: str, tmp_path: Path, in_process: None, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(s3, "SINGLE_PUT_LIMIT", 1_000_000)
        monkeypatch.setattr(gcs, "CHUNK", 2**20)
        (source / "large.bin").write_bytes(os.urandom(20_000_000))
        store = ArtifactStore.from_url(url)
        store.publish(source, "", "0123" * 16, {})
        store.download("", tmp_path / "copy")
        assert same_files(source, tmp_path / "copy")


class TestTwoPublishersOfOneKey:
    def test_as_processes_both_succeed_and_one_of_them_made_it(
        self, store_server: StoreEndpoint, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        processes = [store_server.start("publish", publishing(source, url)) for _ in range(3)]
        outputs = [process.communicate(timeout=120)[0] for process in processes]
        assert [process.returncode for process in processes] == [0, 0, 0], outputs
        assert sum(f"published {url}" in output for output in outputs) == 1
        ArtifactStore.from_url(url).download("", tmp_path / "copy")
        assert same_files(source, tmp_path / "copy")

    def test_are_told_apart_by_the_server(self, store_server: StoreEndpoint, bucket: str, in_process: None) -> None:
        writers = 8
        start = threading.Barrier(writers)
        place = f"{store_server.scheme}://{bucket}"

        def write(number: int) -> bool:
            mine = bucket_at(place, None, None)
            start.wait(10)
            return mine.write_if_absent("contested", b"%d" % number)

        with ThreadPoolExecutor(writers) as pool:
            made = list(pool.map(write, range(writers)))
        assert made.count(True) == 1
        assert bucket_at(place, None, None).read("contested") == b"%d" % made.index(True)


class TestAKilledPublisher:
    def test_leaves_no_artifact_and_the_next_goes_on(
        self, store_server: StoreEndpoint, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        for number in range(60):
            (source / f"more{number:02}.bin").write_bytes(os.urandom(500_000))
        process = store_server.start("publish", publishing(source, url))
        assert process.stdout is not None
        for line in process.stdout:
            if line.startswith("more"):
                break
        process.send_signal(signal.SIGKILL)
        process.communicate()
        store = ArtifactStore.from_url(url)
        assert not store.is_complete()

        code, output = store_server.run("publish", *publishing(source, url))
        assert code == 0
        assert "there already" in output
        assert store.is_complete()
        store.download("", tmp_path / "copy")
        assert same_files(source, tmp_path / "copy")


def fails(server: StoreEndpoint, source: Path, url: str, **changes: str) -> str:
    """The one line that the program says."""
    code, output = server.run("publish", *publishing(source, url), **changes)
    assert code == 1
    assert output.startswith("error: ")
    assert output.count("\n") == 1, output
    return output


class TestAStoreThatCantBeUsedIsNamed:
    def test_with_no_such_bucket(self, store_server: StoreEndpoint, source: Path) -> None:
        output = fails(store_server, source, f"{store_server.scheme}://absent-bucket/k")
        absent = f"{store_server.scheme}://absent-bucket"
        assert f"{absent}/k/manifest.json at {store_server.url}: there is no such bucket" in output
        assert f"python -m engine_jobs.bucket --url {store_server.scheme}://" in output

    def test_when_nobody_listens(self, store_server: StoreEndpoint, source: Path, url: str) -> None:
        (variable,) = {"AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"} & store_server.variables.keys()
        output = fails(store_server, source, url, **{variable: "http://127.0.0.1:1"})
        assert "at http://127.0.0.1:1: the endpoint can't be reached" in output
        assert variable in output

    def test_with_an_address_that_is_none(self, store_server: StoreEndpoint, source: Path, url: str) -> None:
        (variable,) = {"AWS_ENDPOINT_URL_S3", "STORAGE_EMULATOR_HOST"} & store_server.variables.keys()
        assert "nonsense" in fails(store_server, source, url, **{variable: "nonsense"})

    def test_to_the_preview_as_an_absent_bucket(self, store_server: StoreEndpoint, in_process: None) -> None:
        with pytest.raises(BucketAbsentError):
            ArtifactStore.from_url(f"{store_server.scheme}://absent-bucket/k").is_complete()


class TestCredentialsThatWontDoAreNamed:
    URL = "s3://bucket/k"

    @pytest.mark.parametrize(
        ("changes", "message"),
        [
            ({"AWS_SECRET_ACCESS_KEY": "wrong"}, "the secret key is wrong for this access key"),
            ({"AWS_ACCESS_KEY_ID": "NOBODY"}, "the server does not know this access key"),
            ({"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""}, "no usable credentials"),
        ],
    )
    def test_of_s3(self, s3_server: S3Endpoint, source: Path, changes: dict[str, str], message: str) -> None:
        output = fails(s3_server, source, self.URL, **changes)
        assert message in output
        assert "AWS_SHARED_CREDENTIALS_FILE" in output
        assert s3_server.secret_key not in output

    @pytest.mark.parametrize("key_file", ["", "/absent.json"])
    def test_of_google(self, gcs_server: GcsEndpoint, source: Path, tmp_path: Path, key_file: str) -> None:
        nothing = {"STORAGE_EMULATOR_HOST": "", "HOME": str(tmp_path), "NO_GCE_CHECK": "true"}
        output = fails(gcs_server, source, "gs://bucket/k", GOOGLE_APPLICATION_CREDENTIALS=key_file, **nothing)
        assert "gs://bucket/ at https://storage.googleapis.com: no usable credentials" in output
        assert "gcloud auth application-default login" in output


class TestDamageInTheStore:
    def test_is_found_when_downloading(
        self, store_server: StoreEndpoint, bucket: str, source: Path, url: str, tmp_path: Path, in_process: None
    ) -> None:
        store = ArtifactStore.from_url(url)
        store.publish(source, "", "0123" * 16, {})
        stored = store_server.folder / bucket / "artifacts/ft/tiny/0123/fastertransformer/1/model.3.bin"
        content = bytearray(stored.read_bytes())
        content[1000] ^= 1
        with stored.open("r+b") as stream:
            stream.write(content)
        with pytest.raises(UserError, match=r"model\.3\.bin"):
            store.download("", tmp_path / "copy")
        assert not (tmp_path / "copy").exists()


class TestTheWorkFolder:
    """`--remove-work`: the folder on the work volume that the artifact was made in."""

    KEY = "0123456789abcdef" * 4

    @pytest.fixture
    def work(self, tmp_path: Path) -> Path:
        folder = tmp_path / "work" / self.KEY[:16]
        (folder / "repository").mkdir(parents=True)
        (folder / "repository" / "model.bin").write_bytes(b"weights")
        (folder / "checkpoint").mkdir()
        (folder / "checkpoint" / "model.safetensors").write_bytes(b"weights")
        return folder

    def publishing(self, work: Path, source: Path, url: str) -> tuple[str | Path, ...]:
        return ("--source-dir", source, "--artifact", url, "--key", self.KEY, "--remove-work", work)

    def test_goes_once_the_artifact_is_there(
        self, store_server: StoreEndpoint, url: str, work: Path, in_process: None
    ) -> None:
        code, output = store_server.run("publish", *self.publishing(work, work / "repository", url))
        assert (code, output.splitlines()[-1]) == (0, f"removed {work}: the artifact is in the store")
        assert list(work.parent.iterdir()) == []
        assert ArtifactStore.from_url(url).is_complete()

    def test_is_not_needed_by_the_next_call(self, s3_server: S3Endpoint, work: Path) -> None:
        url = "s3://work-folder/k"
        s3_server.run("bucket", "--url", "s3://work-folder")
        arguments = self.publishing(work, work / "repository", url)
        assert s3_server.run("publish", *arguments)[0] == 0
        code, output = s3_server.run("publish", *arguments)
        assert (code, output) == (0, f"{url} was published already, and {work / 'repository'} removed\n")

    def test_stays_while_there_is_no_artifact(self, s3_server: S3Endpoint, work: Path) -> None:
        code, _ = s3_server.run("publish", *self.publishing(work, work / "repository", "s3://absent-bucket/k"))
        assert code == 1
        assert (work / "repository" / "model.bin").read_bytes() == b"weights"

    def test_that_never_was_is_no_success(self, s3_server: S3Endpoint, work: Path) -> None:
        s3_server.run("bucket", "--url", "s3://never-was")
        code, output = s3_server.run("publish", *self.publishing(work, work / "absent", "s3://never-was/k"))
        assert (code, "there is no such folder" in output) == (1, True)

    def test_must_be_the_artifacts_own(self, s3_server: S3Endpoint, work: Path, tmp_path: Path) -> None:
        other = tmp_path / "elsewhere" / self.KEY[:16]
        other.mkdir(parents=True)
        link = tmp_path / "linked" / self.KEY[:16]
        link.parent.mkdir()
        link.symlink_to(work)
        for folder, message in (
            (work.parent, "must be named by the key's first 16 digits"),
            (other, "repository is not in it"),
            (link, "a link, or a disk of its own, is not removed"),
        ):
            code, output = s3_server.run("publish", *self.publishing(folder, work / "repository", "s3://bucket/k"))
            assert (code, message in output) == (1, True), output
            assert (work / "repository" / "model.bin").exists()
            assert other.exists()


class TestArguments:
    def test_inputs_must_be_a_json_object(self, store_server: StoreEndpoint, source: Path, url: str) -> None:
        for text, message in (("{", "--inputs is not JSON"), ("[1]", "--inputs must be a JSON object")):
            code, output = store_server.run(
                "publish", "--source-dir", source, "--artifact", url, "--key", "k", "--inputs", text
            )
            assert (code, output.startswith(f"error: {message}")) == (1, True)

    def test_source_must_be_there(self, store_server: StoreEndpoint, url: str, tmp_path: Path) -> None:
        code, output = store_server.run("publish", *publishing(tmp_path / "absent", url))
        assert (code, "absent: there is no such folder" in output) == (1, True)

    def test_inputs_reach_the_manifest(self, store_server: StoreEndpoint, bucket: str, source: Path, url: str) -> None:
        store_server.run("publish", *publishing(source, url))
        manifest = json.loads((store_server.folder / bucket / "artifacts/ft/tiny/0123/manifest.json").read_text())
        assert (manifest["schema"], manifest["inputs"]) == (1, {"model": "tiny"})
