"""A safetensors header is either right to the last byte or named as wrong."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from engine_jobs.errors import UserError
from engine_jobs.safetensors_header import TensorEntry, read_header

TENSORS: dict[str, np.ndarray[Any, Any]] = {
    "a": np.arange(6, dtype=np.float16).reshape(2, 3),
    "b": np.ones((4,), dtype=np.float32),
}


@pytest.fixture
def shard(tmp_path: Path) -> Path:
    path = tmp_path / "model.safetensors"
    save_file(TENSORS, path, metadata={"format": "pt"})
    return path


def rewrite_header(path: Path, change: Callable[[dict[str, Any]], None]) -> None:
    raw = path.read_bytes()
    length = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + length])
    change(header)
    text = json.dumps(header).encode()
    path.write_bytes(len(text).to_bytes(8, "little") + text + raw[8 + length :])


class TestAWholeFile:
    def test_gives_the_bytes_of_each_tensor(self, shard: Path) -> None:
        raw = shard.read_bytes()
        entries = read_header(shard)
        assert set(entries) == {"a", "b"}
        for name, array in TENSORS.items():
            assert raw[entries[name].start : entries[name].end] == array.tobytes()
            assert entries[name].shape == array.shape
        assert isinstance(entries["a"], TensorEntry)
        assert entries["a"].dtype == "F16"

    def test_may_have_no_tensors(self, tmp_path: Path) -> None:
        path = tmp_path / "empty.safetensors"
        save_file({}, path)
        assert read_header(path) == {}


class TestADamagedFileIsNamed:
    @pytest.mark.parametrize("kept", [0, 5, 20, -1])
    def test_when_cut(self, shard: Path, kept: int) -> None:
        shard.write_bytes(shard.read_bytes()[:kept])
        with pytest.raises(UserError, match=r"model\.safetensors is not a whole safetensors file"):
            read_header(shard)

    def test_when_longer_than_described(self, shard: Path) -> None:
        shard.write_bytes(shard.read_bytes() + b"\0")
        with pytest.raises(UserError, match="header describes"):
            read_header(shard)

    def test_when_the_json_is_garbage(self, shard: Path) -> None:
        raw = bytearray(shard.read_bytes())
        raw[8:12] = b"\xff\xff\xff\xff"
        shard.write_bytes(raw)
        with pytest.raises(UserError, match="can't be read"):
            read_header(shard)

    @pytest.mark.parametrize(
        "change",
        [
            lambda header: header["a"].update(shape=[2, 4]),
            lambda header: header["a"].update(data_offsets=[0, 28]),
            lambda header: header["a"].update(dtype="F12"),
            lambda header: header["a"].update(shape=[-2, -3]),
            lambda header: header["a"].pop("dtype"),
            lambda header: header.update(a=7),
        ],
    )
    def test_when_the_fields_contradict_each_other(self, shard: Path, change: Callable[[dict[str, Any]], None]) -> None:
        rewrite_header(shard, change)
        with pytest.raises(UserError, match="not a whole safetensors file"):
            read_header(shard)

    def test_when_the_header_is_no_object(self, tmp_path: Path) -> None:
        path = tmp_path / "list.safetensors"
        path.write_bytes((2).to_bytes(8, "little") + b"[]")
        with pytest.raises(UserError, match="can't be read"):
            read_header(path)
