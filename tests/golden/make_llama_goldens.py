"""Makes everything in `tests/golden/llama/`: what Hugging Face's Llama computes.

    python -m tests.golden.make_llama_goldens

It needs torch, transformers (4.x) and safetensors, which the project itself does not use. Two checkpoints: `tiny-llama`, which ships
with the repository, and `uneven`, a random one in bf16 and two shards whose heads together are wider than its hidden size, with three
query heads for each of three key-value heads, tied embeddings and Llama 3.1's rotary scaling. It writes, for each checkpoint M:

- M-logits.npz   prompts p0, p1, … (token ids) and the logits [tokens, vocabulary] of each, l0, l1, …, in fp32
- uneven/        the checkpoint itself
"""

from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from transformers import LlamaConfig, LlamaForCausalLM

GOLDEN = Path(__file__).resolve().parent / "llama"
TINY = Path(__file__).resolve().parents[2] / "localcluster" / "models" / "tiny-llama"
PROMPTS = {
    "tiny-llama": [[1, 510, 368, 375], [1, 7, 800, 300, 12, 9, 400, 77, 600, 4], [1]],
    "uneven": [[1, *range(3, 61)], [1, 4, 1, 5, 9, 2, 6, 5, 3, 5]],
}


def make_uneven() -> None:
    torch.manual_seed(9)
    config = LlamaConfig(
        vocab_size=61,
        hidden_size=40,
        intermediate_size=36,
        num_hidden_layers=2,
        num_attention_heads=9,
        num_key_value_heads=3,
        head_dim=8,
        max_position_embeddings=128,
        rms_norm_eps=1e-5,
        rope_theta=10000.0,
        rope_scaling={
            "rope_type": "llama3",
            "factor": 8.0,
            "low_freq_factor": 1.0,
            "high_freq_factor": 4.0,
            "original_max_position_embeddings": 16,
        },
        tie_word_embeddings=True,
    )
    model = LlamaForCausalLM(config)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            parameter.copy_(0.3 * torch.randn_like(parameter) + (1.0 if "norm" in name else 0.0))
    model.bfloat16().save_pretrained(GOLDEN / "uneven", safe_serialization=True, max_shard_size="30KB")
    (GOLDEN / "uneven" / "generation_config.json").unlink()


def write_logits(name: str, checkpoint: Path) -> None:
    model = LlamaForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    made: dict[str, NDArray[np.generic]] = {}
    for number, prompt in enumerate(PROMPTS[name]):
        with torch.no_grad():
            logits = model(input_ids=torch.tensor([prompt])).logits[0]
        made |= {f"p{number}": np.array(prompt, np.int32), f"l{number}": logits.numpy()}
    np.savez_compressed(GOLDEN / f"{name}-logits.npz", **made)


def main() -> None:
    GOLDEN.mkdir(parents=True, exist_ok=True)
    make_uneven()
    for name, checkpoint in (("tiny-llama", TINY), ("uneven", GOLDEN / "uneven")):
        write_logits(name, checkpoint)


if __name__ == "__main__":
    main()
