"""Makes everything in `tests/golden/ft/`: what the reference converter writes, and what Hugging Face's BLOOM computes.

    python tests/golden/make_bloom_goldens.py --reference PATH/huggingface_bloom_convert.py

PATH is NVIDIA/FasterTransformer's examples/pytorch/gpt/utils; the script stays out of this repository. It needs torch,
transformers (4.x), safetensors and tokenizers, which the project itself does not use. Two checkpoints are converted:
`tiny-bloom`, which ships with the repository, and `six-heads`, a random one with 6 heads (ALiBi's other branch), config keys
by their aliases and tensors without `transformer.`. It writes, for each checkpoint M:

- M-tpN-TYPE.sha256   sha256 and name of every file of the reference's N-gpu folder
- M-logits.npz        prompts, right-padded batch and the logits [rows, positions, vocabulary] at its real positions
- six-heads/          the checkpoint itself: config.json and pytorch_model.bin (zip, fp32) as torch writes it
- six-heads-bf16/        the same in bf16
- six-heads-legacy.bin   one tensor in torch's older format, which is refused
"""

import argparse
import hashlib
import json
import multiprocessing
import runpy
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch
from transformers import BloomConfig, BloomForCausalLM, BloomModel

GOLDEN = Path(__file__).resolve().parent / "ft"
TINY = Path(__file__).resolve().parents[2] / "localcluster" / "models" / "tiny-bloom"
PROMPTS = {
    "tiny-bloom": [
        [5, 77, 300, 301, 12, 9, 400],
        [600, 4],
        [100, 200, 300, 400, 500, 600, 99, 98, 97, 96, 95, 94],
        [2],
    ],
    "six-heads": [[3, 1, 4, 1, 5, 9, 2, 6], [53], [58, 9, 7, 9, 3, 2, 3, 8, 4, 6, 2, 6, 4, 3, 38, 32, 7]],
}
SIX_HEADS_CONFIG = {
    "_name_or_path": "made/six-heads",
    "model_type": "bloom",
    "n_embed": 48,
    "num_attention_heads": 6,
    "n_layer": 2,
    "vocab_size": 61,
    "layer_norm_epsilon": 1e-05,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "n_inner": None,
}


def make_six_heads() -> None:
    torch.manual_seed(6)
    folder = GOLDEN / "six-heads"
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "config.json").write_text(json.dumps(SIX_HEADS_CONFIG, indent=2) + "\n", encoding="utf-8")
    model = BloomModel(BloomConfig.from_pretrained(folder))
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(
                0.3 * torch.randn_like(parameter) + (1.0 if "layernorm.weight" in name or name == "ln_f.weight" else 0)
            )
    state = model.state_dict()
    half = GOLDEN / "six-heads-bf16"
    half.mkdir(exist_ok=True)
    (half / "config.json").write_bytes((folder / "config.json").read_bytes())
    torch.save(state, folder / "pytorch_model.bin")
    torch.save({name: tensor.bfloat16() for name, tensor in state.items()}, half / "pytorch_model.bin")
    torch.save(
        {"ln_f.weight": state["ln_f.weight"]}, GOLDEN / "six-heads-legacy.bin", _use_new_zipfile_serialization=False
    )


def run_reference(arguments: list[str]) -> None:
    """The reference as a program, in a process that has imported torch already."""
    sys.argv = arguments
    runpy.run_path(arguments[0], run_name="__main__")


def write_sums(reference: Path, name: str, checkpoint: Path, ranks: int, data_type: str) -> None:
    with tempfile.TemporaryDirectory() as folder:
        arguments = [str(reference), "-i", str(checkpoint), "-o", folder, "-tp", str(ranks), "-dt", data_type]
        process = multiprocessing.get_context("fork").Process(target=run_reference, args=(arguments,))
        process.start()
        process.join()
        if process.exitcode:
            raise SystemExit(f"the reference failed on {checkpoint} with exit code {process.exitcode}")
        files = sorted((Path(folder) / f"{ranks}-gpu").iterdir())
        lines = [f"{hashlib.sha256(file.read_bytes()).hexdigest()}  {file.name}\n" for file in files]
    (GOLDEN / f"{name}-tp{ranks}-{data_type}.sha256").write_text("".join(lines), encoding="utf-8")


def write_logits(name: str, checkpoint: Path) -> None:
    model = BloomForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    rows = PROMPTS[name]
    longest = max(len(row) for row in rows)
    ids = torch.tensor([row + [3] * (longest - len(row)) for row in rows])
    lengths = torch.tensor([len(row) for row in rows])
    mask = (torch.arange(longest) < lengths.unsqueeze(1)).long()
    with torch.no_grad():
        logits = model(input_ids=ids, attention_mask=mask).logits
    np.savez_compressed(
        GOLDEN / f"{name}-logits.npz",
        ids=ids.numpy().astype(np.uint32),
        lengths=lengths.numpy().astype(np.uint32),
        logits=(logits * mask.unsqueeze(-1)).numpy(),
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="Make tests/golden/ft anew.")
    parser.add_argument(
        "--reference", type=Path, required=True, help="huggingface_bloom_convert.py of FasterTransformer"
    )
    reference: Path = parser.parse_args().reference
    torch.set_num_threads(1)  # a forked child cannot use the threads that its parent started
    GOLDEN.mkdir(parents=True, exist_ok=True)
    make_six_heads()
    for name, checkpoint, sizes in (("tiny-bloom", TINY, (1, 2, 4)), ("six-heads", GOLDEN / "six-heads", (1, 2, 3, 6))):
        write_logits(name, checkpoint)
        for ranks in sizes:
            for data_type in ("fp32", "fp16"):
                write_sums(reference, name, checkpoint, ranks, data_type)
    for data_type in ("fp32", "fp16"):
        write_sums(reference, "six-heads-bf16", GOLDEN / "six-heads-bf16", 2, data_type)


if __name__ == "__main__":
    main()
