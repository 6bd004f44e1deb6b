"""The converter writes the reference's bytes, and a run that fails or is killed leaves nothing that could be served."""

import configparser
import errno
import json
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer import convert as program
from engine_jobs.fastertransformer import weight_writer
from engine_jobs.fastertransformer.layout import Dimensions, WeightsFolder, tensor_shapes
from tests.unit.bloom_checkpoints import (
    CHECKPOINTS,
    ROOT,
    SIX_HEADS,
    TINY,
    as_shards,
    copied,
    edit_config,
    golden_sums,
    sums,
)

CASES = [
    (name, ranks, data_type)
    for name, sizes in (("tiny-bloom", (1, 2, 4)), ("six-heads", (1, 2, 3, 6)), ("six-heads-bf16", (2,)))
    for ranks in sizes
    for data_type in ("fp32", "fp16")
]


def converted(checkpoint: Path, output: Path, ranks: int = 1, data_type: str = "fp32", workers: int = 1) -> Path:
    """Runs the program in this process and returns the folder that it wrote."""
    arguments = ["--input-dir", str(checkpoint), "--output-dir", str(output), "--tensor-parallel-size", str(ranks)]
    program.main([*arguments, "--data-type", data_type, "--workers", str(workers)])
    return output / f"{ranks}-gpu"


def command(checkpoint: Path, output: Path, *more: str) -> list[str]:
    names = ["--input-dir", str(checkpoint), "--output-dir", str(output)]
    return [sys.executable, "-m", "engine_jobs.fastertransformer.convert", *names, *more]


def run(checkpoint: Path, output: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        command(checkpoint, output, *more), cwd=ROOT, capture_output=True, text=True, timeout=120, check=False
    )


def made(folder: Path, layers: int, heads: int, hidden: int, vocabulary: int) -> Path:
    """A checkpoint of the given size, fp16, of zeros."""
    folder.mkdir()
    config = {
        "model_type": "bloom",
        "n_layer": layers,
        "n_head": heads,
        "hidden_size": hidden,
        "vocab_size": vocabulary,
    }
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    shapes = tensor_shapes(Dimensions(layers=layers, heads=heads, hidden=hidden, vocabulary=vocabulary))
    save_file({name: np.zeros(shape, np.float16) for name, shape in shapes.items()}, folder / "model.safetensors")
    return folder


class TestTheBytesAreTheReferences:
    @pytest.mark.parametrize(("name", "ranks", "data_type"), CASES)
    def test_every_file_and_no_other(self, tmp_path: Path, name: str, ranks: int, data_type: str) -> None:
        folder = converted(CHECKPOINTS[name], tmp_path, ranks, data_type)
        assert sums(folder) == golden_sums(name, ranks, data_type)

    @pytest.mark.parametrize(("count", "prefix"), [(1, ""), (4, "transformer."), (7, "")])
    def test_from_shards(self, tmp_path: Path, count: int, prefix: str) -> None:
        shards = as_shards(TINY, tmp_path / "shards", count, prefix)
        assert sums(converted(shards, tmp_path / "out", 2, "fp16")) == golden_sums("tiny-bloom", 2, "fp16")

    def test_by_several_workers_in_small_blocks(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(weight_writer, "MAPPED_BYTES", 5000)
        monkeypatch.setattr(weight_writer, "BLOCK_ITEMS", 700)
        monkeypatch.setattr(program, "SMALL_FILES_BYTES", 100)
        assert sums(converted(TINY, tmp_path, 2, "fp32", workers=3)) == golden_sums("tiny-bloom", 2, "fp32")

    def test_config_ini_can_be_read_back(self, tmp_path: Path) -> None:
        folder = WeightsFolder.read(converted(SIX_HEADS, tmp_path, 3, "fp16"))
        assert (folder.ranks, folder.data_type, folder.dimensions.heads, folder.dimensions.hidden) == (3, "fp16", 6, 48)
        assert not folder.post_layer_norm

    def test_a_percent_sign_in_the_name_and_the_other_layer_norm(self, tmp_path: Path) -> None:
        folder = copied(SIX_HEADS, tmp_path / "c")
        edit_config(folder, lambda c: c.update(_name_or_path="100%x", apply_residual_connection_post_layernorm=True))
        parser = configparser.ConfigParser(interpolation=None)
        parser.read(converted(folder, tmp_path / "out") / "config.ini")
        gpt = parser["gpt"]
        assert (gpt["model_name"], gpt["model_variant"], gpt["layernorm_type"]) == (
            "100%x",
            "bloom-post",
            "post_layernorm",
        )


class TestNumbersAreRoundedAsTorchDoes:
    def test_half_to_single_is_exact_for_every_pattern(self) -> None:
        bits = np.arange(2**16, dtype=np.uint16)
        assert np.array_equal(
            weight_writer.converted(bits, "F16", "fp32"), bits.view(np.float16).astype(np.float32), equal_nan=True
        )

    def test_single_to_half_rounds_to_even_and_overflows_to_infinity(self) -> None:
        values = np.array([1 + 2**-11, 1 + 3 * 2**-11, 65519.0, 65520.0, -1e9, 2**-25, 2**-24 * 1.5, 6e-8], np.float32)
        half = weight_writer.converted(values.view(np.uint32), "F32", "fp16")
        assert half.tolist() == [1.0, 1.001953125, 65504.0, np.inf, -np.inf, 0.0, 2**-23, 5.960464477539063e-08]

    def test_bfloat16(self) -> None:
        single = weight_writer.converted(np.array([0x3F80, 0xC040, 0x7F80], np.uint16), "BF16", "fp32")
        assert single.tolist() == [1.0, -3.0, np.inf]

    @pytest.mark.parametrize("kind", [np.uint16, np.uint32])
    @pytest.mark.parametrize(("first", "stop"), [(0, 64), (8, 40), (3, 64), (0, 61)])
    def test_transposing_moves_every_bit(self, kind: type[Any], first: int, stop: int) -> None:
        raw = np.random.default_rng(1).integers(0, np.iinfo(kind).max, (700, 64), kind)
        rows = [slice(600, 700), slice(0, 300)]
        expected = np.concatenate([raw[600:700], raw[0:300]])[:, first:stop].T
        assert np.array_equal(weight_writer.transposed(raw, rows, first, stop), expected)


class TestACompleteOutputIsKept:
    def test_a_second_run_writes_nothing(self, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
        folder = converted(TINY, tmp_path)
        before = {file: file.stat().st_mtime_ns for file in folder.iterdir()}
        converted(TINY, tmp_path)
        assert "is complete, nothing to do" in capsys.readouterr().err
        assert {file: file.stat().st_mtime_ns for file in folder.iterdir()} == before

    @pytest.mark.parametrize("spoil", ["cut", "remove", "config", "stamp"])
    def test_a_spoilt_one_is_made_anew(self, tmp_path: Path, spoil: str) -> None:
        folder = converted(TINY, tmp_path)
        victim = folder / "model.layers.1.mlp.dense_4h_to_h.bias.bin"
        if spoil == "cut":
            os.truncate(victim, 3)
        elif spoil == "remove":
            victim.unlink()
        elif spoil == "config":
            (folder / "config.ini").unlink()
        else:
            (tmp_path / ".1-gpu.complete.json").write_text("{}", encoding="utf-8")
        assert sums(converted(TINY, tmp_path)) == golden_sums("tiny-bloom", 1, "fp32")

    def test_other_inputs_replace_it(self, tmp_path: Path) -> None:
        converted(TINY, tmp_path)
        assert sums(converted(SIX_HEADS, tmp_path)) == golden_sums("six-heads", 1, "fp32")
        assert sums(converted(SIX_HEADS, tmp_path, data_type="fp16")) == golden_sums("six-heads", 1, "fp16")
        assert sorted(path.name for path in tmp_path.iterdir()) == [".1-gpu.complete.json", "1-gpu"]

    def test_sizes_for_several_gpus_live_side_by_side(self, tmp_path: Path) -> None:
        converted(TINY, tmp_path, 1)
        converted(TINY, tmp_path, 2)
        assert sums(tmp_path / "1-gpu") == golden_sums("tiny-bloom", 1, "fp32")
        assert sums(tmp_path / "2-gpu") == golden_sums("tiny-bloom", 2, "fp32")

    def test_a_folder_of_somebody_else_is_not_touched(self, tmp_path: Path) -> None:
        (tmp_path / "1-gpu").mkdir()
        (tmp_path / "1-gpu" / "mine").touch()
        answer = run(TINY, tmp_path)
        assert answer.returncode == 1
        assert "exists and was not made by this program" in answer.stderr
        assert (tmp_path / "1-gpu" / "mine").exists()


class TestAFailureSaysWhatToDoAndLeavesNothing:
    def refused(self, checkpoint: Path, output: Path, message: str, *more: str) -> None:
        answer = run(checkpoint, output, *more)
        assert answer.returncode != 0
        assert message in answer.stderr
        assert "Traceback" not in answer.stderr
        assert not output.exists() or not [path for path in output.iterdir() if "stamp" not in path.name]

    def test_ranks_that_do_not_divide_the_heads(self, tmp_path: Path) -> None:
        message = "--tensor-parallel-size 4 does not divide the 6 heads"
        self.refused(SIX_HEADS, tmp_path / "out", message, "--tensor-parallel-size", "4")
        self.refused(SIX_HEADS, tmp_path / "out", "Possible: 1, 2, 3, 6", "--tensor-parallel-size", "0")

    def test_no_workers(self, tmp_path: Path) -> None:
        self.refused(TINY, tmp_path / "out", "--workers 0 must be 1 or more", "--workers", "0")

    def test_an_unknown_data_type(self, tmp_path: Path) -> None:
        self.refused(TINY, tmp_path / "out", "invalid choice: 'int8'", "--data-type", "int8")

    def test_no_heads(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        edit_config(folder, lambda config: config.pop("n_head"))
        self.refused(folder, tmp_path / "out", "has no n_head")

    def test_a_cut_shard(self, tmp_path: Path) -> None:
        folder = copied(TINY, tmp_path / "c")
        os.truncate(folder / "model.safetensors", 500_000)
        self.refused(folder, tmp_path / "out", "model.safetensors is not a whole safetensors file")

    def test_no_input(self, tmp_path: Path) -> None:
        self.refused(tmp_path / "nothing", tmp_path / "out", "config.json is missing")

    def test_an_output_that_is_a_file(self, tmp_path: Path) -> None:
        (tmp_path / "out").touch()
        answer = run(TINY, tmp_path / "out")
        assert answer.returncode == 1
        assert f"{tmp_path / 'out'}" in answer.stderr
        assert "Traceback" not in answer.stderr


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


class TestAFullDisk:
    def test_is_seen_before_a_byte_is_written(self, small_disk: Path) -> None:
        answer = run(TINY, small_disk / "out")
        assert answer.returncode == 1
        assert "there is too little room to convert" in answer.stderr
        assert re.search(r"1-gpu needs 1,9\d\d,\d{3} bytes, and .*/out has 1,048,576 free", answer.stderr)
        assert list((small_disk / "out").iterdir()) == []

    def test_in_the_middle_leaves_nothing(self, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(program, "_check_room", lambda conversion: None)
        with pytest.raises(UserError, match=r"the disk filled up while converting: .* needs [\d,]+ bytes"):
            converted(TINY, small_disk / "out", workers=2)
        assert list((small_disk / "out").iterdir()) == []

    def test_what_was_there_before_stays(self, small_disk: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        converted(SIX_HEADS, small_disk)
        monkeypatch.setattr(program, "_check_room", lambda conversion: None)
        with pytest.raises(UserError, match="the disk filled up"):
            converted(TINY, small_disk)
        assert sums(small_disk / "1-gpu") == golden_sums("six-heads", 1, "fp32")

    def test_other_errors_of_the_system_pass(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        def broken(_: object) -> None:
            raise OSError(errno.EIO, "Input/output error", "shard")

        monkeypatch.setattr(program, "_rename", broken)
        with pytest.raises(OSError, match="Input/output error"):
            converted(TINY, tmp_path)
        assert list(tmp_path.iterdir()) == []


class TestAKilledRunIsRepairedByTheNext:
    def test_sigkill_half_way(self, tmp_path: Path) -> None:
        checkpoint = made(tmp_path / "big", layers=4, heads=8, hidden=1024, vocabulary=30_000)
        output = tmp_path / "out"
        process = subprocess.Popen(
            command(checkpoint, output, "--workers", "2"), cwd=ROOT, stderr=subprocess.PIPE, text=True
        )
        partial = output / ".1-gpu.partial"
        while not (partial / "config.ini").exists():
            assert process.poll() is None, "the run ended before it could be killed"
            time.sleep(0.002)
        process.kill()
        process.communicate(timeout=30)
        assert process.returncode == -signal.SIGKILL
        assert partial.exists()
        assert not (output / "1-gpu").exists()
        answer = run(checkpoint, output, "--workers", "2")
        assert answer.returncode == 0, answer.stderr
        WeightsFolder.read(output / "1-gpu").check()
        assert sorted(path.name for path in output.iterdir()) == [".1-gpu.complete.json", "1-gpu"]

    def test_a_killed_worker(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(program, "write_files", kill_this_process)
        with pytest.raises(UserError, match="a worker process was killed, most likely for want of memory"):
            converted(TINY, tmp_path)
        assert list(tmp_path.iterdir()) == []

    def test_two_at_once_make_one_output(self, tmp_path: Path) -> None:
        processes = [
            subprocess.Popen(command(TINY, tmp_path), cwd=ROOT, stderr=subprocess.PIPE, text=True) for _ in range(2)
        ]
        said = [process.communicate(timeout=60)[1] for process in processes]
        assert [process.returncode for process in processes] == [0, 0]
        assert sum("converted " in text for text in said) == 1
        assert sum("nothing to do" in text for text in said) == 1
        assert sums(tmp_path / "1-gpu") == golden_sums("tiny-bloom", 1, "fp32")


def kill_this_process(_: object) -> int:
    os.kill(os.getpid(), signal.SIGKILL)
    return 0


class TestMemoryStaysSmall:
    def test_three_times_the_largest_tensor_at_most(self, tmp_path: Path) -> None:
        """The workers' peak beyond a bare worker's, on a checkpoint whose largest tensor is 64 MB."""
        checkpoint = made(tmp_path / "big", layers=1, heads=8, hidden=512, vocabulary=64 * 1024)
        largest = 64 * 1024 * 512 * 2
        script = (
            "import resource, sys\n"
            "from engine_jobs.fastertransformer import convert\n"
            "convert.main(sys.argv[1:])\n"
            "print(resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024)"
        )

        def peak(source: Path, target: Path) -> int:
            arguments = ["--input-dir", str(source), "--output-dir", str(target), "--workers", "1"]
            answer = subprocess.run(
                [sys.executable, "-c", script, *arguments], cwd=ROOT, capture_output=True, text=True, check=True
            )
            return int(answer.stdout)

        assert peak(checkpoint, tmp_path / "out") - peak(TINY, tmp_path / "tiny") < 3 * largest
