"""`engine_jobs.fill_disk` leaves a whole artifact on a disk, or nothing that could be taken for one."""

import errno
import os
import signal
from pathlib import Path

import pytest

from engine_jobs import fill_disk as program
from engine_jobs.errors import UserError
from engine_jobs.fill_disk import fill_disk
from engine_jobs.store import ArtifactStore
from tests.unit.memory_bucket import MemoryBucket
from tests.unit.store_endpoint import StoreEndpoint

KEY = "0123" * 16


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "repository"
    (folder / "engines").mkdir(parents=True)
    (folder / "engines" / "rank0.engine").write_bytes(b"engine")
    (folder / "config.json").write_bytes(b"{}")
    return folder


@pytest.fixture
def store(source: Path) -> ArtifactStore:
    store = ArtifactStore(MemoryBucket(), "trtllm/tiny/0123")
    store.publish(source, "", KEY, {})
    return store


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "disk" / "trtllm" / "tiny" / "0123"


def names(folder: Path) -> list[str]:
    """What is in the folder, except for the lock."""
    return sorted(path.name for path in folder.iterdir() if not path.name.endswith(".lock"))


class TestFilling:
    def test_brings_the_artifact_from_either_store(
        self, store_server: StoreEndpoint, bucket: str, source: Path, output: Path
    ) -> None:
        url = f"{store_server.scheme}://{bucket}/trtllm/tiny/0123"
        store_server.run("publish", "--source-dir", source, "--artifact", url, "--key", KEY)
        arguments = ("--artifact", url, "--output-dir", output)
        code, said = store_server.run("fill_disk", *arguments)
        assert (code, said) == (0, f"downloaded {url} to {output}: 2 files, 8 bytes\n")
        assert (output / "engines" / "rank0.engine").read_bytes() == b"engine"
        assert store_server.run("fill_disk", *arguments) == (0, f"{output} holds {url} already\n")

    def test_removes_what_other_bytes_left_unfinished(self, store: ArtifactStore, output: Path) -> None:
        stale = output.with_name("0123.partial-feedfeedfeed")
        other = output.with_name("01234.partial-feedfeedfeed")
        for folder in (stale, other):
            folder.mkdir(parents=True)
            (folder / "part").write_bytes(b"x")
        fill_disk(store, output)
        assert names(output.parent) == ["0123", "01234.partial-feedfeedfeed"]

    def test_writes_nothing_where_the_artifact_is(
        self, store: ArtifactStore, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        fill_disk(store, output)
        monkeypatch.setattr(program, "only_one", lambda output: pytest.fail("a read-only disk has no place for a lock"))
        fill_disk(store, output)


class TestAKilledFilling:
    def test_leaves_nothing_by_that_name_and_the_next_goes_on(
        self, store_server: StoreEndpoint, bucket: str, source: Path, output: Path
    ) -> None:
        for number in range(200):
            (source / f"part{number:03}").write_bytes(os.urandom(300_000))
        url = f"{store_server.scheme}://{bucket}/trtllm/tiny/0123"
        store_server.run("publish", "--source-dir", source, "--artifact", url, "--key", KEY)
        process = store_server.start("fill_disk", ("--artifact", url, "--output-dir", output))
        while process.poll() is None and len(list(output.parent.glob("0123.partial-*/part*"))) < 20:
            pass
        process.send_signal(signal.SIGKILL)
        process.communicate()
        assert not output.exists()
        code, said = store_server.run("fill_disk", "--artifact", url, "--output-dir", output)
        assert code == 0, said
        assert (output / "part199").read_bytes() == (source / "part199").read_bytes()
        assert names(output.parent) == ["0123"]


class TestWhatIsWrongIsNamed:
    def test_an_artifact_that_is_not_complete(self, output: Path) -> None:
        with pytest.raises(UserError, match=r"is not complete: it has no manifest\.json\. Run the Jobs that build it"):
            fill_disk(ArtifactStore(MemoryBucket(), "k"), output)
        assert not output.exists()

    def test_a_folder_that_is_something_else(self, store: ArtifactStore, output: Path) -> None:
        output.mkdir(parents=True)
        (output / "mine").write_bytes(b"x")
        with pytest.raises(UserError, match="exists and is not memory:"):
            fill_disk(store, output)
        assert names(output) == ["mine"]

    @pytest.mark.parametrize(
        ("code", "message"),
        [
            (errno.ENOSPC, "the disk is full"),
            (errno.EROFS, "the disk is mounted read-only"),
            (errno.EACCES, "this user may not write there"),
            (errno.EIO, "I/O error"),
        ],
    )
    def test_a_disk_that_refuses(
        self, source: Path, output: Path, monkeypatch: pytest.MonkeyPatch, code: int, message: str
    ) -> None:
        bucket = MemoryBucket()
        store = ArtifactStore(bucket, "k")
        store.publish(source, "", KEY, {})

        def refuse(key: str, destination: Path) -> None:
            raise OSError(code, os.strerror(code), str(destination))

        monkeypatch.setattr(bucket, "download", refuse)
        with pytest.raises(UserError, match=message):
            fill_disk(store, output)
        assert not output.exists()

    def test_a_disk_that_is_read_only_from_the_start(
        self, store: ArtifactStore, output: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def refuse(path: Path, mode: int = 0o777, parents: bool = False, exist_ok: bool = False) -> None:
            raise OSError(errno.EROFS, "Read-only file system", str(path))

        monkeypatch.setattr(Path, "mkdir", refuse)
        with pytest.raises(UserError, match=rf"{output.parent}: the disk is mounted read-only"):
            fill_disk(store, output)

    def test_the_urls_kind(self) -> None:
        with pytest.raises(UserError, match="is not an artifact store's URL"):
            program.main(["--artifact", "pvc://claim/k", "--output-dir", "/disk"])
