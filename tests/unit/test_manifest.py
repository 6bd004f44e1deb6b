"""A manifest says exactly what is in a folder, and nothing that is not a manifest is taken for one."""

import hashlib
import json
from pathlib import Path
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.manifest import MANIFEST_NAME, Manifest, ManifestFile


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "repository"
    (path / "fastertransformer" / "1").mkdir(parents=True)
    (path / "fastertransformer" / "config.pbtxt").write_text('name: "fastertransformer"\n')
    (path / "fastertransformer" / "1" / "model.wte.bin").write_bytes(bytes(3_000_000))
    return path


def written(**changes: Any) -> str:
    fields: dict[str, Any] = {
        "schema": 1,
        "key": "k",
        "files": [{"path": "a", "size": 1, "sha256": "0" * 64}],
        "created": "2026-01-01T00:00:00+00:00",
        "inputs": {},
    }
    return json.dumps(fields | changes)


class TestAFoldersManifest:
    def test_has_every_file_with_size_and_sha256(self, folder: Path) -> None:
        manifest = Manifest.of_folder(folder, "key", {"model": "m"})
        assert manifest.files == (
            ManifestFile(
                path="fastertransformer/1/model.wte.bin",
                size=3_000_000,
                sha256=hashlib.sha256(bytes(3_000_000)).hexdigest(),
            ),
            ManifestFile(
                path="fastertransformer/config.pbtxt",
                size=26,
                sha256=hashlib.sha256(b'name: "fastertransformer"\n').hexdigest(),
            ),
        )
        assert (manifest.key, manifest.inputs, manifest.size) == ("key", {"model": "m"}, 3_000_026)

    def test_survives_json(self, folder: Path) -> None:
        manifest = Manifest.of_folder(folder, "key", {"model": "m"})
        assert Manifest.from_json(manifest.to_json(), "here") == manifest

    def test_digest_is_of_the_files_only(self, folder: Path) -> None:
        first = Manifest.of_folder(folder, "key", {"a": 1})
        second = Manifest.of_folder(folder, "key", {"a": 2})
        assert first.digest == second.digest
        (folder / "more").write_text("")
        assert Manifest.of_folder(folder, "key", {}).digest != first.digest

    def test_of_nothing_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="is empty: there is nothing to publish"):
            Manifest.of_folder(tmp_path, "key", {})
        with pytest.raises(UserError, match="there is no such folder"):
            Manifest.of_folder(tmp_path / "absent", "key", {})

    def test_of_a_folder_with_a_file_of_its_name_is_an_error(self, folder: Path) -> None:
        (folder / MANIFEST_NAME).write_text("{}")
        with pytest.raises(UserError, match="this name belongs to the artifact's manifest"):
            Manifest.of_folder(folder, "key", {})


class TestReading:
    def test_takes_what_was_written(self) -> None:
        assert Manifest.from_json(written(), "here").files[0].path == "a"

    @pytest.mark.parametrize(
        "text",
        [
            "",
            "[]",
            "{}",
            written(files=[{"path": "a"}]),
            written(files=[{"path": "../a", "size": 1, "sha256": "0" * 64}]),
            written(files=[{"path": "/etc/passwd", "size": 1, "sha256": "0" * 64}]),
            written(files=[{"path": "a", "size": "1", "sha256": "0" * 64}]),
            written(files=[{"path": "a", "size": 1, "sha256": "short"}]),
            written(files=7),
        ],
    )
    def test_refuses_what_is_no_manifest(self, text: str) -> None:
        with pytest.raises(UserError, match=r"^s3://b/k/manifest\.json is not an artifact's manifest"):
            Manifest.from_json(text, "s3://b/k/manifest.json")

    def test_names_a_newer_schema(self) -> None:
        with pytest.raises(UserError, match="has schema 2, and this program reads schema 1"):
            Manifest.from_json(written(schema=2), "here")
