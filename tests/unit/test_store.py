"""An artifact is complete or absent, whoever builds it and wherever a builder dies."""

import os
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from engine_jobs.manifest import MANIFEST_NAME
from engine_jobs.store import ArtifactStore, Published, partial_of
from tests.unit.memory_bucket import MemoryBucket

PATH = "ft/tiny/0123"
KEY = "0123" * 16


def write_folder(folder: Path, **files: bytes) -> Path:
    for name, content in files.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(content)
    return folder


@pytest.fixture
def bucket() -> MemoryBucket:
    return MemoryBucket()


@pytest.fixture
def store(bucket: MemoryBucket) -> ArtifactStore:
    return ArtifactStore(bucket, "artifacts")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    return write_folder(tmp_path / "repository", **{"1/weights.bin": b"weights", "config.pbtxt": b"name"})


class TestPublishing:
    def test_puts_the_manifest_last(self, store: ArtifactStore, bucket: MemoryBucket, folder: Path) -> None:
        seen: list[bool] = []
        bucket.before_upload = lambda key: seen.append(store.is_complete(PATH))
        published = store.publish(folder, PATH, KEY, {"model": "m"})
        assert seen == [False, False]
        assert published.made_here
        assert store.manifest(PATH) == published.manifest
        assert set(bucket.objects) == {
            f"artifacts/{PATH}/{name}" for name in ("1/weights.bin", "config.pbtxt", MANIFEST_NAME)
        }

    def test_again_changes_nothing(self, store: ArtifactStore, bucket: MemoryBucket, folder: Path) -> None:
        store.publish(folder, PATH, KEY, {})
        before = dict(bucket.objects)
        lines: list[str] = []
        assert not store.publish(folder, PATH, KEY, {}, lines.append).made_here
        assert bucket.objects == before
        assert len(bucket.uploads) == 2
        assert "was published already" in lines[0]
        assert "the same files" in lines[0]

    def test_of_other_bytes_leaves_those_that_are_there(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path
    ) -> None:
        first = store.publish(folder, PATH, KEY, {})
        other = write_folder(tmp_path / "other", **{"1/weights.bin": b"WEIGHTS", "config.pbtxt": b"name"})
        lines: list[str] = []
        second = store.publish(other, PATH, KEY, {}, lines.append)
        assert (second.made_here, second.manifest) == (False, first.manifest)
        assert bucket.objects[f"artifacts/{PATH}/1/weights.bin"] == b"weights"
        assert "other bytes for the same key; they stay" in lines[0]

    def test_goes_on_where_a_killed_one_stopped(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path
    ) -> None:
        for number in range(20):
            (folder / f"part{number:02}").write_bytes(b"%d" % number)

        def die_in_the_middle(key: str) -> None:
            if len(bucket.uploads) > 5:
                raise KeyboardInterrupt

        bucket.before_upload = die_in_the_middle
        with pytest.raises(KeyboardInterrupt):
            store.publish(folder, PATH, KEY, {})
        assert not store.is_complete(PATH)
        done = set(bucket.uploads)
        assert 0 < len(done) < 22

        bucket.before_upload = lambda key: None
        bucket.uploads.clear()
        assert store.publish(folder, PATH, KEY, {}).made_here
        assert not done & set(bucket.uploads)
        store.download(PATH, tmp_path / "copy")
        assert (tmp_path / "copy" / "part19").read_bytes() == b"19"

    def test_removes_what_an_unfinished_upload_left(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path
    ) -> None:
        bucket.objects[f"artifacts/{PATH}/old.bin"] = b"of another build"
        bucket.objects[f"artifacts/{PATH}5/old.bin"] = b"of another key"
        store.publish(folder, PATH, KEY, {})
        assert f"artifacts/{PATH}/old.bin" not in bucket.objects
        assert f"artifacts/{PATH}5/old.bin" in bucket.objects

    def test_replaces_an_object_that_only_has_the_right_size(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path
    ) -> None:
        bucket.objects[f"artifacts/{PATH}/1/weights.bin"] = b"WEIGHTS"
        store.publish(folder, PATH, KEY, {})
        assert bucket.objects[f"artifacts/{PATH}/1/weights.bin"] == b"weights"

    def test_finds_an_object_that_arrived_short(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        def lose_bytes(source: Path, key: str, sha256: str) -> None:
            bucket.objects[key] = source.read_bytes()[:-1]

        monkeypatch.setattr(bucket, "upload", lose_bytes)
        with pytest.raises(UserError, match=r"1/weights\.bin has 6 bytes after the upload, and should have 7"):
            store.publish(folder, PATH, KEY, {})
        assert not store.is_complete(PATH)

    def test_never_takes_a_whole_bucket(self, bucket: MemoryBucket, folder: Path) -> None:
        bucket.objects["another/artifact"] = b"x"
        with pytest.raises(UserError, match=r"memory://bucket/ is a whole bucket"):
            ArtifactStore(bucket).publish(folder, "", KEY, {})
        assert list(bucket.objects) == ["another/artifact"]

    def test_of_an_empty_folder_is_an_error(self, store: ArtifactStore, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="nothing to publish"):
            store.publish(tmp_path, PATH, KEY, {})


def build_at_once(store: ArtifactStore, folders: list[Path]) -> list[Published | UserError]:
    def build(folder: Path) -> Published | UserError:
        try:
            return store.publish(folder, PATH, KEY, {}, lambda line: None)
        except UserError as error:
            return error

    with ThreadPoolExecutor(len(folders)) as pool:
        return list(pool.map(build, folders))


class TestTwoBuildersOfOneKey:
    def test_with_the_same_bytes_both_succeed(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path
    ) -> None:
        builders = 4
        everyone_uploads = threading.Barrier(builders * 2)  # two files each

        def wait_for_everyone(key: str) -> None:
            everyone_uploads.wait(10)

        bucket.before_upload = wait_for_everyone
        outcomes = build_at_once(store, [folder] * builders)
        assert sorted(isinstance(outcome, Published) and outcome.made_here for outcome in outcomes) == [
            False, False, False, True,
        ]  # fmt: skip
        assert not [outcome for outcome in outcomes if isinstance(outcome, UserError)]
        store.download(PATH, tmp_path / "copy")
        assert not [key for key in bucket.objects if key.endswith(".claim.json")]

    def test_with_other_bytes_the_second_is_told_to_wait(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path
    ) -> None:
        other = write_folder(tmp_path / "other", **{"1/weights.bin": b"WEIGHTS", "extra": b"x"})
        refused: list[UserError] = []

        def second_builder(key: str) -> None:
            bucket.before_upload = lambda key: None
            with pytest.raises(
                UserError, match=r"is being published with other bytes.*remove memory:.*\.claim\.json"
            ) as caught:
                store.publish(other, PATH, KEY, {})
            refused.append(caught.value)

        bucket.before_upload = second_builder
        assert store.publish(folder, PATH, KEY, {}).made_here
        assert len(refused) == 1
        # Once the first has finished, the second finds its artifact.
        assert not store.publish(other, PATH, KEY, {}).made_here
        store.download(PATH, tmp_path / "copy")
        assert (tmp_path / "copy" / "1" / "weights.bin").read_bytes() == b"weights"
        assert not (tmp_path / "copy" / "extra").exists()

    def test_of_which_the_first_ends_between_the_seconds_look_and_its_claim(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        other = write_folder(tmp_path / "other", **{"1/weights.bin": b"WEIGHTS", "config.pbtxt": b"name"})
        claim = bucket.write_if_absent

        def first_builder_first(key: str, content: bytes, content_type: str = "") -> bool:
            monkeypatch.setattr(bucket, "write_if_absent", claim)
            store.publish(folder, PATH, KEY, {})
            return claim(key, content)

        monkeypatch.setattr(bucket, "write_if_absent", first_builder_first)
        assert not store.publish(other, PATH, KEY, {}).made_here
        assert bucket.objects[f"artifacts/{PATH}/1/weights.bin"] == b"weights"
        assert not [key for key in bucket.objects if key.endswith(".claim.json")]

    def test_with_other_bytes_never_mix_them(self, bucket: MemoryBucket, tmp_path: Path) -> None:
        store = ArtifactStore(bucket)
        folders = [
            write_folder(tmp_path / f"builder{number}", **{f"part{part}": b"%d" % number for part in range(6)})
            for number in range(4)
        ]
        outcomes = build_at_once(store, folders)
        made = [outcome for outcome in outcomes if isinstance(outcome, Published) and outcome.made_here]
        assert len(made) == 1
        store.download(PATH, tmp_path / "copy")
        assert len({(tmp_path / "copy" / f"part{part}").read_bytes() for part in range(6)}) == 1


class TestDownloading:
    def test_gives_the_published_files(self, store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
        store.publish(folder, PATH, KEY, {})
        store.download(PATH, tmp_path / "copy")
        assert (tmp_path / "copy" / "1" / "weights.bin").read_bytes() == b"weights"
        assert [path.name for path in tmp_path.glob("copy*")] == ["copy"]

    def test_again_does_nothing(self, store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
        store.publish(folder, PATH, KEY, {})
        store.download(PATH, tmp_path / "copy")
        lines: list[str] = []
        store.download(PATH, tmp_path / "copy", lines.append)
        assert lines == [f"{tmp_path / 'copy'} holds memory://bucket/artifacts/{PATH} already"]

    def test_of_an_incomplete_artifact_is_an_error(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path
    ) -> None:
        store.publish(folder, PATH, KEY, {})
        bucket.delete(f"artifacts/{PATH}/{MANIFEST_NAME}")
        with pytest.raises(UserError, match=r"is not complete: it has no manifest\.json"):
            store.download(PATH, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    def test_finds_a_changed_object(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path
    ) -> None:
        store.publish(folder, PATH, KEY, {})
        bucket.objects[f"artifacts/{PATH}/1/weights.bin"] = b"WEIGHTS"
        with pytest.raises(UserError, match=r"1/weights\.bin is not what its manifest says"):
            store.download(PATH, tmp_path / "copy")
        assert not (tmp_path / "copy").exists()

    def test_goes_on_where_it_stopped(
        self, store: ArtifactStore, bucket: MemoryBucket, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        store.publish(folder, PATH, KEY, {})
        good = bucket.objects.copy()
        bucket.objects[f"artifacts/{PATH}/config.pbtxt"] = b"nome"
        with pytest.raises(UserError):
            store.download(PATH, tmp_path / "copy")
        bucket.objects = good
        fetched: list[str] = []
        download = bucket.download

        def note(key: str, destination: Path) -> None:
            fetched.append(key)
            download(key, destination)

        monkeypatch.setattr(bucket, "download", note)
        store.download(PATH, tmp_path / "copy")
        assert fetched == [f"artifacts/{PATH}/config.pbtxt"]

    def test_counts_what_is_there_already_as_room(
        self, store: ArtifactStore, folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        manifest = store.publish(folder, PATH, KEY, {}).manifest
        full = os.statvfs_result((4096, 4096, 100, 0, 0, 1, 1, 1, 0, 255))
        monkeypatch.setattr(os, "statvfs", lambda path: full)
        with pytest.raises(UserError, match=r"has 0 bytes free, and 11 of memory:.* are to come"):
            store.download(PATH, tmp_path / "copy")
        write_folder(partial_of(tmp_path / "copy", manifest), **{"1/weights.bin": b"weights", "config.pbtxt": b"name"})
        store.download(PATH, tmp_path / "copy")

    def test_never_replaces_another_folder(self, store: ArtifactStore, folder: Path, tmp_path: Path) -> None:
        store.publish(folder, PATH, KEY, {})
        with pytest.raises(UserError, match=f"{folder} exists and is not memory:"):
            store.download(PATH, folder)


class TestTheUrl:
    @pytest.mark.parametrize("url", ["s3://bucket/prefix", "gs://bucket/prefix"])
    def test_may_be_of_either_cloud(self, url: str, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("STORAGE_EMULATOR_HOST", "http://127.0.0.1:1")
        assert ArtifactStore.from_url(url).url("ft/k") == f"{url}/ft/k"

    @pytest.mark.parametrize(
        "url", ["bucket/prefix", "s3:///prefix", "gs:///prefix", "http://host/bucket", "s3://bucket/prefix?x=1"]
    )
    def test_must_be_one_of_a_bucket(self, url: str) -> None:
        with pytest.raises(UserError, match="is not an artifact store's URL"):
            ArtifactStore.from_url(url)

    def test_and_the_path_make_the_key(self, bucket: MemoryBucket, folder: Path) -> None:
        ArtifactStore(bucket, "/a/b/").publish(folder, "/c/", KEY, {})
        assert ArtifactStore(bucket, "a/b/c").is_complete()
        assert ArtifactStore(bucket).is_complete("a/b/c")

    def test_with_a_broken_manifest_is_named(self, store: ArtifactStore, bucket: MemoryBucket) -> None:
        bucket.objects[f"artifacts/{PATH}/{MANIFEST_NAME}"] = b"{"
        with pytest.raises(UserError, match=rf"memory://bucket/artifacts/{PATH}/manifest\.json is not an artifact's"):
            store.is_complete(PATH)
