"""A fetched checkpoint is complete and checked, or absent with a reason; a later call goes on where one was killed."""

import json
import os
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import ClassVar

import pytest

from engine_jobs import fetch as fetch_module
from engine_jobs.errors import UserError
from engine_jobs.fetch import discard_unfinished, fetch
from engine_jobs.hub_files import RemoteFile, select
from engine_jobs.progress import bytes_reported
from engine_jobs.resolve import HubModelRevision, resolve_revision
from localcluster.hub.catalog import HubFile
from localcluster.hub.server import HubHandler
from tests.unit.hub_endpoint import GATED, MODEL, OTHER_TOKEN, TOKEN, hub, write_model

TAKEN = {
    "config.json",
    "generation_config.json",
    "model-00001-of-00002.safetensors",
    "model-00002-of-00002.safetensors",
    "model.safetensors.index.json",
    "tokenizer.json",
    "tokenizer_config.json",
}
SECOND_SHARD = "model-00002-of-00002.safetensors"


@pytest.fixture(autouse=True)
def quiet_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """No login of the machine's, and pauses short enough for a test."""
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setenv("HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))
    monkeypatch.setattr(fetch_module, "FIRST_PAUSE", 0.01)


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def endpoint(models: Path) -> Iterator[str]:
    with hub(models) as address:
        yield address


@pytest.fixture
def output(tmp_path: Path) -> Path:
    return tmp_path / "work" / "checkpoint"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 256 KiB."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=256k", "tmpfs", folder], check=True)
    yield folder
    subprocess.run(["umount", folder], check=True)


def wanted(endpoint: str, model: str = MODEL, token: str | None = None, revision: str = "main") -> HubModelRevision:
    return HubModelRevision(model=model, revision=revision, endpoint=endpoint, token=token)


def files_of(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir() if not path.name.startswith(".")}


def command(endpoint: str, output: Path) -> list[str]:
    options = ["--model", MODEL, "--revision", "main", "--output-dir", str(output), "--endpoint", endpoint]
    return [sys.executable, "-m", "engine_jobs.fetch", *options]


class CountingHandler(HubHandler):
    """Notes which files' bytes were sent, since `sent` was last emptied."""

    sent: ClassVar[list[str]] = []

    def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
        self.sent.append(file.name)
        super().send_bytes(file, start, stop)


class TestAFetchedCheckpoint:
    def test_has_what_serving_needs_byte_for_byte(self, endpoint: str, models: Path, output: Path) -> None:
        fetch(wanted(endpoint), output)
        assert files_of(output) == TAKEN
        for name in TAKEN:
            assert (output / name).read_bytes() == (models / "tiny" / name).read_bytes()

    def test_leaves_nothing_else_of_weight_beside_it(self, endpoint: str, output: Path) -> None:
        fetch(wanted(endpoint), output)
        assert {path.name for path in output.parent.iterdir()} == {"checkpoint", ".checkpoint.lock"}
        assert {path.name for path in output.iterdir()} == TAKEN | {".fetched.json"}

    def test_is_not_fetched_twice(self, models: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        CountingHandler.sent.clear()
        with hub(models, CountingHandler) as address:
            fetch(wanted(address), output)
            assert sorted(CountingHandler.sent) == sorted(TAKEN)
            fetch(wanted(address), output)
        assert len(CountingHandler.sent) == len(TAKEN)
        assert "nothing to do" in capsys.readouterr().out

    def test_at_a_commit_takes_no_hub_the_second_time(self, models: Path, output: Path) -> None:
        with hub(models) as address:
            fetch(wanted(address), output)
            sha = resolve_revision(MODEL, "main", address)
        fetch(wanted("http://127.0.0.1:1", revision=sha), output)

    def test_that_lost_a_file_is_completed(self, models: Path, output: Path) -> None:
        CountingHandler.sent.clear()
        with hub(models, CountingHandler) as address:
            fetch(wanted(address), output)
            CountingHandler.sent.clear()
            (output / SECOND_SHARD).write_bytes(b"cut")
            fetch(wanted(address), output)
        assert SECOND_SHARD in CountingHandler.sent
        assert (output / SECOND_SHARD).read_bytes() == (models / "tiny" / SECOND_SHARD).read_bytes()

    def test_comes_from_a_gated_model_with_the_token(self, endpoint: str, output: Path) -> None:
        fetch(wanted(endpoint, GATED, TOKEN), output)
        assert files_of(output) == TAKEN

    def test_of_another_model_is_never_replaced(self, endpoint: str, output: Path) -> None:
        fetch(wanted(endpoint), output)
        with pytest.raises(UserError, match="exists and is not llm-serving/tiny-gated"):
            fetch(wanted(endpoint, GATED, TOKEN), output)
        assert files_of(output) == TAKEN

    def test_never_replaces_a_strangers_folder(self, endpoint: str, output: Path) -> None:
        output.mkdir(parents=True)
        (output / "thesis.txt").write_text("important")
        with pytest.raises(UserError, match="exists and is not"):
            fetch(wanted(endpoint), output)
        assert (output / "thesis.txt").read_text() == "important"


class TestTheSelection:
    def names(self, *paths: str) -> list[str]:
        files = [RemoteFile(path=path, size=1, blob_id="", sha256=None) for path in ("config.json", *paths)]
        return [file.path for file in select(files, "a/b") if file.path != "config.json"]

    def test_prefers_safetensors(self) -> None:
        both = ("model.safetensors", "pytorch_model.bin", "pytorch_model.bin.index.json", "flax_model.msgpack")
        assert self.names(*both) == ["model.safetensors"]

    def test_takes_bin_where_there_are_no_others(self) -> None:
        paths = ("pytorch_model-1.bin", "pytorch_model.bin.index.json", "training_args.bin")
        assert self.names(*paths) == ["pytorch_model-1.bin", "pytorch_model.bin.index.json"]

    def test_takes_one_copy_of_the_weights(self) -> None:
        assert self.names("model.safetensors", "consolidated.safetensors") == ["model.safetensors"]
        assert self.names("consolidated.safetensors") == ["consolidated.safetensors"]

    def test_takes_no_code_and_no_folders(self) -> None:
        paths = ("model.safetensors", "modeling_x.py", "onnx/model.safetensors", "README.md", "tokenizer.model")
        assert self.names(*paths) == ["model.safetensors", "tokenizer.model"]

    def test_without_weights_is_an_error(self) -> None:
        with pytest.raises(UserError, match=r"a/b has no .*safetensors"):
            self.names("README.md")

    def test_without_a_config_is_an_error(self) -> None:
        with pytest.raises(UserError, match=r"a/b has no config\.json"):
            select([], "a/b")


class TestDamageIsFound:
    def no_output(self, output: Path) -> None:
        assert not output.exists()

    def test_in_bytes_that_change_on_the_way(self, models: Path, output: Path) -> None:
        class FlippingHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                content = bytearray(file.source.read_bytes())
                if file.name == SECOND_SHARD:
                    content[-1] ^= 1
                self.wfile.write(content[start:stop])

        with (
            hub(models, FlippingHandler) as address,
            pytest.raises(UserError, match=f"^{SECOND_SHARD} of {MODEL} at .*size or hash is not what the Hub"),
        ):
            fetch(wanted(address), output)
        self.no_output(output)

    def test_in_a_small_text_too(self, models: Path, output: Path) -> None:
        class FlippingHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                content = file.source.read_bytes()
                self.wfile.write(content.replace(b"n_head", b"n_hexd") if file.name == "config.json" else content)

        with hub(models, FlippingHandler) as address, pytest.raises(UserError, match=r"config\.json of"):
            fetch(wanted(address), output)
        self.no_output(output)

    def test_and_mended_where_it_happened_once(self, models: Path, output: Path) -> None:
        flips = [SECOND_SHARD]

        class FlippingOnceHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                content = bytearray(file.source.read_bytes())
                if file.name in flips:
                    flips.remove(file.name)
                    content[-1] ^= 1
                self.wfile.write(content[start:stop])

        with hub(models, FlippingOnceHandler) as address:
            fetch(wanted(address), output)
        assert not flips
        assert (output / SECOND_SHARD).read_bytes() == (models / "tiny" / SECOND_SHARD).read_bytes()

    @pytest.mark.parametrize(
        ("damage", "message"),
        [
            (lambda raw: raw[:-100], "its header describes"),
            (lambda raw: b"\xff" * 8 + raw[8:], "its header should be"),
            (lambda raw: raw[:8] + b"!" + raw[9:], "its header can't be read"),
        ],
    )
    def test_in_a_shard_that_was_uploaded_damaged(
        self, models: Path, output: Path, damage: Callable[[bytes], bytes], message: str
    ) -> None:
        shard = models / "tiny" / SECOND_SHARD
        shard.write_bytes(damage(shard.read_bytes()))
        with hub(models) as address, pytest.raises(UserError, match=f"{SECOND_SHARD} is not a whole .*{message}"):
            fetch(wanted(address), output)
        self.no_output(output)

    @pytest.mark.parametrize(
        ("weight_map", "message"),
        [
            ({"x": "model-00003-of-00003.safetensors"}, "the repository has no file model-00003-of-00003.safetensors"),
            ({"x": SECOND_SHARD}, f"its file {SECOND_SHARD} lacks it"),
        ],
    )
    def test_in_an_index_that_names_what_is_not_there(
        self, models: Path, output: Path, weight_map: dict[str, str], message: str
    ) -> None:
        (models / "tiny" / "model.safetensors.index.json").write_text(json.dumps({"weight_map": weight_map}))
        with hub(models) as address, pytest.raises(UserError, match=f"names a tensor x, and {message}"):
            fetch(wanted(address), output)
        self.no_output(output)

    @pytest.mark.parametrize("text", ["{", "{}", "[]", '{"weight_map": 7}'])
    def test_in_an_index_that_is_none(self, models: Path, output: Path, text: str) -> None:
        (models / "tiny" / "model.safetensors.index.json").write_text(text)
        with hub(models) as address, pytest.raises(UserError, match="is no index of safetensors files"):
            fetch(wanted(address), output)
        self.no_output(output)


class TestAHubThatFails:
    def test_for_a_moment_is_waited_for(self, models: Path, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        failures = iter(range(2))

        class StumblingHandler(HubHandler):
            def do_GET(self) -> None:
                if "/api/" in self.path and next(failures, None) is not None:
                    self.send_error(503)
                else:
                    super().do_GET()

        with hub(models, StumblingHandler) as address:
            fetch(wanted(address), output)
        assert files_of(output) == TAKEN
        assert "answered 503, it can't serve this now. Try again later. Trying again" in capsys.readouterr().out

    def test_for_good_is_named_after_a_few_attempts(self, output: Path, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(UserError, match=r"the Hub at http://127\.0\.0\.1:1 can't be reached"):
            fetch(wanted("http://127.0.0.1:1"), output)
        assert capsys.readouterr().out.count("Trying again") == fetch_module.ATTEMPTS - 1
        assert not output.exists()

    @pytest.mark.parametrize(
        ("model", "token", "message"),
        [
            ("llm-serving/absent", None, "no such model"),
            (GATED, None, "is gated, and there is no token"),
            (GATED, OTHER_TOKEN, "is gated, and the account of the token has no access"),
        ],
    )
    def test_by_refusing_is_asked_once(
        self,
        endpoint: str,
        output: Path,
        capsys: pytest.CaptureFixture[str],
        model: str,
        token: str | None,
        message: str,
    ) -> None:
        with pytest.raises(UserError, match=message):
            fetch(wanted(endpoint, model, token), output)
        assert "Trying again" not in capsys.readouterr().out
        assert not output.exists()

    def test_by_an_unknown_revision(self, endpoint: str, output: Path) -> None:
        with pytest.raises(UserError, match="has no revision 'v9'"):
            fetch(wanted(endpoint, revision="v9"), output)


class TestAFullDisk:
    def test_is_seen_before_the_download(self, models: Path, small_disk: Path) -> None:
        write_model(models / "large", rows=8192)
        with hub(models) as address, pytest.raises(UserError, match=r"has \d+ bytes free, and \d+ are to come"):
            fetch(wanted(address, "llm-serving/large"), small_disk / "checkpoint")
        assert not (small_disk / "checkpoint").exists()

    def test_in_the_middle_keeps_what_is_complete(self, models: Path, small_disk: Path) -> None:
        filler = small_disk / "someone-elses"

        class FillingHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                if file.name == SECOND_SHARD:
                    with filler.open("wb", buffering=0) as stream:
                        try:
                            while stream.write(bytes(4096)):
                                pass
                        except OSError:
                            self.log_message("the disk is full now")
                super().send_bytes(file, start, stop)

        output = small_disk / "checkpoint"
        with (
            hub(models, FillingHandler) as address,
            pytest.raises(UserError, match=r"checkpoint\.partial.*disk is full"),
        ):
            fetch(wanted(address), output)
        assert not output.exists()
        filler.unlink()
        with hub(models) as address:
            fetch(wanted(address), output)
        assert files_of(output) == TAKEN


class TestAKilledFetch:
    def test_goes_on_with_the_files_that_were_complete(self, models: Path, output: Path) -> None:
        under_way = threading.Event()

        class StallingHandler(HubHandler):
            def send_bytes(self, file: HubFile, start: int, stop: int) -> None:
                if file.name == SECOND_SHARD:
                    under_way.set()
                    self.connection.recv(1, socket.MSG_PEEK)  # until the client is gone
                else:
                    super().send_bytes(file, start, stop)

        with hub(models, StallingHandler) as address:
            process = subprocess.Popen(command(address, output), stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
            assert under_way.wait(30)
            partial = next(output.parent.glob("checkpoint.partial-*"))
            self.wait_for(lambda: files_of(partial) == TAKEN - {SECOND_SHARD})
            process.send_signal(signal.SIGKILL)
            process.communicate()
        assert not output.exists()

        CountingHandler.sent.clear()
        with hub(models, CountingHandler) as address:
            fetch(wanted(address), output)
        assert SECOND_SHARD in CountingHandler.sent
        assert "model-00001-of-00002.safetensors" not in CountingHandler.sent
        assert files_of(output) == TAKEN
        assert not list(output.parent.glob("*.partial-*"))
        assert not list(output.rglob("*.incomplete"))

    def test_leaves_no_bytes_that_nobody_can_use(self, tmp_path: Path) -> None:
        notes = tmp_path / fetch_module.CLIENT_FOLDER / "huggingface" / "download"
        notes.mkdir(parents=True)
        for path in (tmp_path / "kept", tmp_path / "stranger", notes / "kept.metadata", notes / "x.12ab.incomplete"):
            path.write_text("x")
        discard_unfinished(tmp_path, {"kept"})
        assert {path.name for path in tmp_path.rglob("*") if path.is_file()} == {"kept", "kept.metadata"}

    def wait_for(self, condition: Callable[[], bool]) -> None:
        turn = threading.Event()
        for _ in range(500):
            if condition():
                return
            turn.wait(0.02)
        raise AssertionError("it never came true")


class TestTwoAtOnce:
    def test_fetch_each_file_once(self, models: Path, output: Path) -> None:
        CountingHandler.sent.clear()
        with hub(models, CountingHandler) as address:
            both = [
                subprocess.Popen(command(address, output), stdout=subprocess.PIPE, text=True, env=dict(os.environ))
                for _ in range(2)
            ]
            outputs = [process.communicate(timeout=60)[0] for process in both]
        assert [process.returncode for process in both] == [0, 0]
        assert sorted(CountingHandler.sent) == sorted(TAKEN)
        assert sum("nothing to do" in text for text in outputs) == 1


class TestTheProgram:
    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "engine_jobs.fetch", *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=False)

    def test_tells_its_progress_in_lines(self, endpoint: str, output: Path) -> None:
        done = self.run("--model", MODEL, "--revision", "main", "--output-dir", str(output), "--endpoint", endpoint)
        assert done.returncode == 0
        assert "7 files" in done.stdout
        assert "\r" not in done.stdout + done.stderr
        assert "%|" not in done.stdout + done.stderr

    def test_fails_with_one_message(self, endpoint: str, output: Path) -> None:
        done = self.run("--model", GATED, "--revision", "main", "--output-dir", str(output), "--endpoint", endpoint)
        assert done.returncode == 1
        assert done.stderr.startswith("error: llm-serving/tiny-gated at")
        assert done.stderr.count("\n") == 1

    def test_explains_itself(self) -> None:
        assert "--output-dir" in self.run("--help").stdout


class TestProgress:
    def test_says_how_much_is_there(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        (tmp_path / "half").write_bytes(bytes(500))
        printed = threading.Event()
        with bytes_reported(tmp_path, 1000, every=0.01):
            for _ in range(200):
                if printed.wait(0.02) or "500 of 1000 bytes (50 %)" in capsys.readouterr().out:
                    return
        raise AssertionError("no line came")
