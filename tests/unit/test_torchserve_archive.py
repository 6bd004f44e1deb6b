"""The model archive: laid out as the handler reads it, made by torch-model-archiver, complete or absent."""

import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from engine_jobs.torchserve_accelerate import archive
from engine_jobs.torchserve_accelerate.accelerate_handler import extract
from engine_jobs.torchserve_accelerate.configuration import ServerConfig, config_properties

SETUP_CONFIG = '{"max_memory":{"0":"10GB"},"device_map":"auto","max_length":80}'

# Stands in for torch-model-archiver: the same options, the same archive.
ARCHIVER = """\
#!/usr/bin/env python3
import argparse, os, pathlib, sys, zipfile
if os.environ.get("BREAK") == "fail":
    sys.exit("ERROR - no such handler")
parser = argparse.ArgumentParser()
for option in ("--model-name", "--version", "--handler", "--extra-files", "-r", "--config-file", "--archive-format", "--export-path"):
    parser.add_argument(option)
given = parser.parse_args()
assert pathlib.Path(os.environ["TMPDIR"]).is_dir() and given.archive_format == "zip-store"
with zipfile.ZipFile(pathlib.Path(given.export_path) / f"{given.model_name}.mar", "w") as mar:
    for file in filter(None, (given.handler, given.r, given.config_file, *given.extra_files.split(","))):
        if os.environ.get("BREAK") != pathlib.Path(file).name:
            mar.write(file, pathlib.Path(file).name)
    mar.writestr("MAR-INF/MANIFEST.json", given.version)
"""


@pytest.fixture
def checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    programs = tmp_path / "bin"
    programs.mkdir()
    (programs / "torch-model-archiver").write_text(ARCHIVER)
    (programs / "torch-model-archiver").chmod(0o755)
    monkeypatch.setenv("PATH", f"{programs}{os.pathsep}{os.environ['PATH']}")
    folder = tmp_path / "checkpoint"
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model-1.safetensors", "model-2.safetensors"):
        (folder / name).write_text(f"content of {name}")
    weights = {"weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(weights))
    return folder


def make(checkpoint: Path, *more: str) -> Path:
    output = checkpoint.parent / "archive"
    command = ["--checkpoint-dir", str(checkpoint), "--output-dir", str(output), "--setup-config", SETUP_CONFIG]
    archive.main([*command, "--model-name", "bloom", "--version", "1.0", "--requirement", "accelerate==1.0", *more])
    return output


def members(output: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(output / "model-store/bloom.mar") as mar:
        return {name: mar.read(name) for name in mar.namelist()}


class TestWhatIsMade:
    def test_the_checkpoint_s_files_are_where_the_handler_unpacks_them(self, checkpoint: Path, tmp_path: Path) -> None:
        content = members(make(checkpoint))
        (tmp_path / "model.zip").write_bytes(content["model.zip"])
        extract(tmp_path / "model.zip", tmp_path / "snapshot")
        assert {file.name: file.read_text() for file in (tmp_path / "snapshot").iterdir()} == {
            file.name: file.read_text() for file in checkpoint.iterdir()
        }

    def test_weights_are_not_compressed_and_the_zip_is_the_same_each_time(self, checkpoint: Path) -> None:
        first = members(make(checkpoint))["model.zip"]
        with zipfile.ZipFile(io.BytesIO(first)) as inner:
            assert {entry.compress_type for entry in inner.infolist()} == {zipfile.ZIP_STORED}
        for file in checkpoint.iterdir():
            os.utime(file, (0, 0))
        (checkpoint.parent / "archive").rename(checkpoint.parent / "other")
        assert members(make(checkpoint))["model.zip"] == first

    def test_handler_settings_and_requirements_travel_with_it(self, checkpoint: Path) -> None:
        content = members(make(checkpoint))
        assert json.loads(content["setup_config.json"]) == json.loads(SETUP_CONFIG)
        assert content["requirements.txt"] == b"accelerate==1.0\n"
        assert content["accelerate_handler.py"] == archive.HANDLER.read_bytes()
        assert "model-config.yaml" not in content

    def test_what_torchserve_installs_goes_beside_what_it_has(self, checkpoint: Path) -> None:
        output = make(checkpoint, "--install-py-dep-per-model")
        assert members(output)["model-config.yaml"] == b"useVenv: true\n"
        assert "install_py_dep_per_model=true\n" in (output / "config/config.properties").read_text()

    def test_again_it_is_left_as_it_is(self, checkpoint: Path, capsys: pytest.CaptureFixture[str]) -> None:
        output = make(checkpoint)
        before = (output / "model-store/bloom.mar").stat().st_mtime_ns
        make(checkpoint)
        assert (output / "model-store/bloom.mar").stat().st_mtime_ns == before
        assert "nothing to do" in capsys.readouterr().out

    def test_one_of_other_settings_is_not_taken_for_it(self, checkpoint: Path) -> None:
        make(checkpoint)
        with pytest.raises(UserError, match="made with other settings"):
            make(checkpoint, "--batch-size", "8")


class TestWhatCantBeServedIsRefused:
    @pytest.mark.parametrize(
        ("gone", "words"),
        [
            ("config.json", "no config.json"),
            ("tokenizer.json", "no tokenizer"),
            ("model-2.safetensors", "lacks model-2.safetensors, which model.safetensors.index.json names"),
        ],
    )
    def test_an_incomplete_checkpoint(self, checkpoint: Path, gone: str, words: str) -> None:
        (checkpoint / gone).unlink()
        with pytest.raises(UserError, match=words):
            make(checkpoint)
        assert not (checkpoint.parent / "archive").exists()

    @pytest.mark.parametrize("text", ["{", "[]", "{}"])
    def test_a_setup_config_that_is_none(self, checkpoint: Path, text: str) -> None:
        with pytest.raises(UserError, match="--setup-config"):
            make(checkpoint, "--setup-config", text)

    def test_a_name_that_torchserve_refuses(self, checkpoint: Path) -> None:
        with pytest.raises(UserError, match="--model-name 'a/b'"):
            make(checkpoint, "--model-name", "a/b")


class TestAFailureLeavesNothing:
    @pytest.mark.parametrize(
        ("broken", "words"), [("fail", "no such handler"), ("setup_config.json", "without setup_config.json")]
    )
    def test_of_the_archiver(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch, broken: str, words: str) -> None:
        monkeypatch.setenv("BREAK", broken)
        with pytest.raises(UserError, match=words):
            make(checkpoint)
        left = {path.name for path in checkpoint.parent.iterdir()}
        assert left == {"bin", "checkpoint", ".archive.lock"}

    def test_an_image_without_the_archiver_is_named(self, checkpoint: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("PATH", str(checkpoint))
        with pytest.raises(UserError, match="torch-model-archiver is not on PATH"):
            make(checkpoint)


def test_the_server_s_configuration_is_one_line_a_key() -> None:
    text = config_properties(
        ServerConfig(model_name="bloom", version="1.0", workers=2, batch_size=4, startup_timeout=900)
    )
    properties = dict(line.split("=", 1) for line in text.splitlines())
    assert json.loads(properties["model_snapshot"])["models"] == {
        "bloom": {
            "1.0": {
                "defaultVersion": True,
                "marName": "bloom.mar",
                "minWorkers": 2,
                "maxWorkers": 2,
                "batchSize": 4,
                "maxBatchDelay": 100,
                "responseTimeout": 600,
                "startupTimeout": 900,
            }
        }
    }
    assert properties["inference_address"] == "http://0.0.0.0:8080"
    assert properties["management_address"] == "http://127.0.0.1:8081"
    assert properties["disable_token_authorization"] == "true"
