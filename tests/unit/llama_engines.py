"""Llama checkpoints and engines of them for tests, made with the CPU stand-in's own commands."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine_jobs.tensorrt_llm.cpu_stand_in import convert_checkpoint, trtllm_build
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import Limits, read_engine
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Generation, Request
from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Llama
from engine_jobs.tensorrt_llm.cpu_stand_in.sampling import Sampling
from localcluster.models.training.text import read_completions

ROOT = Path(__file__).resolve().parents[2]
TINY = ROOT / "localcluster" / "models" / "tiny-llama"
GOLDEN = ROOT / "tests" / "golden" / "llama"
CHECKPOINTS = {"tiny-llama": TINY, "uneven": GOLDEN / "uneven"}
COMPLETIONS = read_completions(TINY)
TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))
END = 2


def golden_logits(name: str) -> list[tuple[list[int], NDArray[np.float32]]]:
    """Prompts and what transformers computes for each: [tokens, vocabulary]."""
    with np.load(GOLDEN / f"{name}-logits.npz") as made:
        return [(made[f"p{number}"].tolist(), made[f"l{number}"]) for number in range(len(made.files) // 2)]


def converted(checkpoint: Path, output: Path, *flags: str) -> Path:
    convert_checkpoint.main(["--model_dir", str(checkpoint), "--output_dir", str(output), *flags])
    return output


def built(checkpoint: Path, output: Path, *flags: str, convert: Sequence[str] = ()) -> Path:
    """An engine folder of a Hugging Face checkpoint."""
    ranks = converted(checkpoint, output.with_name(f"{output.name}-checkpoint"), *convert)
    trtllm_build.main(["--checkpoint_dir", str(ranks), "--output_dir", str(output), *flags])
    return output


def llama(checkpoint: Path, output: Path, *flags: str, convert: Sequence[str] = ()) -> Llama:
    return Llama(read_engine(built(checkpoint, output, *flags, convert=convert)))


GREEDY = Sampling()
LIMITS = Limits(max_batch_size=8, max_beam_width=3, max_input_len=64, max_seq_len=128, max_num_tokens=256)
JORDAN, ML = COMPLETIONS[0], COMPLETIONS[1]


def serving_engine(folder: Path) -> Path:
    """tiny-llama for two ranks, built for LIMITS."""
    flags = ("--max_batch_size", "8", "--max_input_len", "64", "--max_seq_len", "128", "--max_beam_width", "3")
    return built(TINY, folder / "engine", *flags, convert=("--tp_size", "2"))


def request(prompt: str, max_tokens: int = 60, **more: Any) -> Request:
    ids = tuple(TOKENIZER.encode(prompt).ids)
    return Request(prompt=ids, max_tokens=max_tokens, end_id=END, **{"sampling": GREEDY, **more})


def token(text: str) -> int:
    found: int | None = TOKENIZER.token_to_id(text)
    assert found is not None
    return found


def sentence(generation: Generation, beam: int = 0) -> str:
    return str(TOKENIZER.decode([*generation.request.prompt, *generation.beams[beam].tokens]))
