"""The CPU stand-in's Llama computes transformers' logits from TensorRT-LLM's files, however they were split."""

from pathlib import Path

import numpy as np
import pytest

from engine_jobs.tensorrt_llm.cpu_stand_in.engine import read_engine
from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Llama, Piece
from engine_jobs.tensorrt_llm.cpu_stand_in.tensor_file import Floats
from tests.unit.llama_engines import CHECKPOINTS, golden_logits, llama

SPLITS = [
    ("tiny-llama", ()),
    ("tiny-llama", ("--tp_size", "2")),
    ("tiny-llama", ("--tp_size", "4")),  # more ranks than key-value heads
    ("tiny-llama", ("--tp_size", "2", "--pp_size", "2")),
    ("uneven", ()),
    ("uneven", ("--tp_size", "3")),  # which does not divide the vocabulary
    ("uneven", ("--tp_size", "9", "--pp_size", "2")),
]


def logits(model: Llama, ids: list[int], chunk: int) -> Floats:
    cache = model.new_cache()
    parts = [model.forward([Piece(ids=ids[i : i + chunk], cache=cache)])[0] for i in range(0, len(ids), chunk)]
    return model.logits(np.concatenate(parts))


class TestLogits:
    @pytest.mark.parametrize(("name", "split"), SPLITS)
    def test_are_those_of_transformers(self, tmp_path: Path, name: str, split: tuple[str, ...]) -> None:
        model = llama(CHECKPOINTS[name], tmp_path / "engine", convert=split)
        for ids, expected in golden_logits(name):
            assert np.abs(logits(model, ids, len(ids)) - expected).max() < 1e-4

    def test_are_the_same_token_by_token_and_beside_other_sequences(self, tmp_path: Path) -> None:
        model = llama(CHECKPOINTS["uneven"], tmp_path / "engine")
        (one, expected), (other, also_expected) = golden_logits("uneven")
        assert np.abs(logits(model, one, 1) - expected).max() < 1e-4
        assert np.abs(logits(model, one, 7) - expected).max() < 1e-4
        pieces = [Piece(ids=ids, cache=model.new_cache()) for ids in (one, other)]
        first, second = (model.logits(hidden) for hidden in model.forward(pieces))
        assert np.abs(first - expected).max() < 1e-4 and np.abs(second - also_expected).max() < 1e-4

    def test_in_fp32_from_fp16_lose_nothing_and_in_bf16_a_little(self, tmp_path: Path) -> None:
        tiny = CHECKPOINTS["tiny-llama"]
        ids, expected = golden_logits("tiny-llama")[1]
        wide = logits(llama(tiny, tmp_path / "wide", convert=("--dtype", "float32")), ids, len(ids))
        narrow = logits(llama(tiny, tmp_path / "narrow", convert=("--dtype", "bfloat16")), ids, len(ids))
        assert np.abs(wide - expected).max() < 1e-4
        assert 1e-3 < np.abs(narrow - expected).max() < 1.0

    def test_see_only_the_attention_window(self, tmp_path: Path) -> None:
        whole = llama(CHECKPOINTS["uneven"], tmp_path / "engine")
        windowed = Llama(read_engine(tmp_path / "engine"), window=4)
        ids, _ = golden_logits("uneven")[1]
        near, far = logits(windowed, ids, len(ids)), logits(whole, ids, len(ids))
        assert np.abs(near[:4] - far[:4]).max() < 1e-4
        assert np.abs(near[4:] - far[4:]).max() > 1e-2
        assert np.abs(logits(windowed, ids, 1) - near).max() < 1e-4
