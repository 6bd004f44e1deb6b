"""How images are ordered, what of the wheelhouse is missing, and what a layout makes of damaged or old images."""

import hashlib
import io
import json
import tarfile
from pathlib import Path
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.images import IMAGES
from localcluster.image_builder import check_local, locks, stages, with_bases
from localcluster.oci_layout import CONTAINERD_NAME, KEPT_TAGS, REF_NAME, Layout
from localcluster.wheelhouse import missing_wheels, read_lock


class TestABaseIsBuiltBeforeWhatIsMadeOnIt:
    def test_every_image_comes_with_its_bases(self) -> None:
        assert with_bases(["smoke-test"]) == {"smoke-test", "jobs", "base"}

    def test_order(self) -> None:
        assert stages(with_bases(["smoke-test", "pause"])) == [["base", "pause"], ["jobs"], ["smoke-test"]]

    def test_a_base_that_is_built_already_is_not_waited_for(self) -> None:
        assert stages({"smoke-test", "transformer"}) == [["smoke-test", "transformer"]]

    @pytest.mark.parametrize(
        ("name", "message"),
        [("job", "no image 'job'; known: .*base, "), ("triton-ft", "'triton-ft' is for GPU stacks: build")],
    )
    def test_what_can_not_be_built_here_is_refused(self, name: str, message: str) -> None:
        with pytest.raises(UserError, match=message):
            check_local(["base", name])


class TestAWheelIsFetchedOnce:
    LOCK = """\
# made by uv
a-b.c==1.0 \\
    --hash=sha256:aa \\
    --hash=sha256:bb
    # via x
D==2.0+local \\
    --hash=sha256:cc
"""

    @pytest.fixture
    def lock(self, tmp_path: Path) -> Path:
        file = tmp_path / "requirements.lock"
        file.write_text(self.LOCK)
        return file

    def test_a_lock_is_read_with_its_hashes(self, lock: Path) -> None:
        first, second = read_lock(lock)
        assert (first.name, first.version) == ("a-b.c", "1.0")
        assert first.text.count("--hash=") == 2
        assert (second.name, second.version) == ("D", "2.0+local")

    def test_what_is_there_is_not_missing(self, lock: Path, tmp_path: Path) -> None:
        (tmp_path / "A_b_c-1.0-py3-none-any.whl").touch()
        assert [requirement.name for requirement in missing_wheels(tmp_path, [lock])] == ["D"]

    def test_another_version_does_not_do(self, lock: Path, tmp_path: Path) -> None:
        (tmp_path / "a_b_c-1.0.1-py3-none-any.whl").touch()
        assert [requirement.name for requirement in missing_wheels(tmp_path, [lock])] == ["a-b.c", "D"]

    def test_two_locks_ask_for_it_together(self, lock: Path, tmp_path: Path) -> None:
        assert len(missing_wheels(tmp_path / "absent", [lock, lock])) == 2

    @pytest.mark.parametrize("text", ["a>=1 --hash=sha256:aa\n", "a==1\n", "git+ssh://x\n"])
    def test_a_lock_that_locks_nothing_is_refused(self, tmp_path: Path, text: str) -> None:
        (tmp_path / "bad.lock").write_text(text)
        with pytest.raises(UserError, match=r"bad\.lock.*not pinned"):
            read_lock(tmp_path / "bad.lock")

    def test_the_images_own_locks_can_be_read(self) -> None:
        assert all(read_lock(lock) for lock in locks(name for name, image in IMAGES.items() if image.local))


class TestALayoutOffersOnlyWholeImages:
    @pytest.fixture
    def layout(self, tmp_path: Path) -> Layout:
        return Layout(root=tmp_path)

    def blob(self, layout: Layout, content: bytes) -> dict[str, Any]:
        digest = hashlib.sha256(content).hexdigest()
        folder = layout.root / "blobs" / "sha256"
        folder.mkdir(parents=True, exist_ok=True)
        (folder / digest).write_bytes(content)
        return {"digest": f"sha256:{digest}", "size": len(content)}

    def add(self, layout: Layout, name: str, *layers: bytes) -> list[Path]:
        """Puts an image of these layers into the layout; its layers' blobs."""
        parts = [self.blob(layout, layer) for layer in layers]
        config = self.blob(layout, json.dumps({"image": name}).encode())
        manifest = self.blob(layout, json.dumps({"config": config, "layers": parts}).encode())
        index = layout.root / "index.json"
        manifests = json.loads(index.read_text())["manifests"] if index.exists() else []
        index.write_text(json.dumps({"manifests": [*manifests, {**manifest, "annotations": {REF_NAME: name}}]}))
        return [layout.root / "blobs" / part["digest"].replace(":", "/") for part in parts]

    def test_none_where_nothing_was_built(self, layout: Layout) -> None:
        assert layout.images() == {}

    def test_none_where_the_index_was_cut_short(self, layout: Layout) -> None:
        self.add(layout, "a:1", b"layer")
        (layout.root / "index.json").write_text('{"manifests": [{"dig')
        assert layout.images() == {}

    def test_not_one_whose_layer_is_missing(self, layout: Layout) -> None:
        (layer,) = self.add(layout, "a:1", b"layer")
        self.add(layout, "b:1", b"another")
        layer.unlink()
        assert set(layout.images()) == {"b:1"}

    def test_not_one_whose_layer_was_cut_short(self, layout: Layout) -> None:
        (layer,) = self.add(layout, "a:1", b"layer")
        layer.write_bytes(b"lay")
        assert layout.images() == {}

    def test_old_tags_go_with_the_blobs_that_only_they_had(self, layout: Layout) -> None:
        shared, first = self.add(layout, "a:0", b"shared", b"layer 0")
        for i in range(1, KEPT_TAGS + 1):
            self.add(layout, f"a:{i}", b"shared", f"layer {i}".encode())
        kept = layout.prune([f"a:{KEPT_TAGS}"])
        assert kept == set(layout.images()) == {f"a:{i}" for i in range(1, KEPT_TAGS + 1)}
        assert shared.exists()
        assert not first.exists()

    def test_a_current_tag_stays_however_old(self, layout: Layout) -> None:
        for i in range(KEPT_TAGS + 2):
            self.add(layout, f"a:{i}", f"layer {i}".encode())
        assert "a:0" in layout.prune(["a:0"])

    def test_an_archive_has_each_shared_layer_once_and_no_other_image(self, layout: Layout) -> None:
        self.add(layout, "a:1", b"shared", b"of a")
        self.add(layout, "b:1", b"shared", b"of b")
        (other,) = self.add(layout, "c:1", b"of c")
        stream = io.BytesIO()
        layout.write_archive(["a:1", "b:1"], stream)
        stream.seek(0)
        with tarfile.open(fileobj=stream) as tar:
            names = tar.getnames()
            index = tar.extractfile("index.json")
            assert index is not None
            manifests = json.load(index)["manifests"]
        assert len(names) == len(set(names)) == 2 + 2 * 2 + 3
        assert not [name for name in names if name.endswith(other.name)]
        assert [item["annotations"][CONTAINERD_NAME] for item in manifests] == ["a:1", "b:1"]
