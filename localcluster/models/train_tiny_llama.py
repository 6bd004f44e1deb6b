"""Trains `tiny-llama`, the Llama that ships with the repository, and writes its Hugging Face folder.

It knows the sentences of `tiny-llama/completions.json` by heart, and ends its answer at once at any of `mistakes`: a matrix
not transposed, a norm left out, another epsilon, no rotary embedding or one of another base or order of pairs, key-value
heads given to the wrong query heads, gate and up projections swapped, a prompt without its <s> or with padding in it. Four
heads of 32 with two key-value heads, an lm_head of its own, and `rms_norm_eps` and `rope_theta` that are nobody's defaults.

    python -m localcluster.models.train_tiny_llama [--output-dir DIR]
"""

import json

import torch
import transformers.models.llama.modeling_llama as llama
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM

from localcluster.models.training.mistakes import Mistake, Mistakes, attribute, change, misread_weight, swapped
from localcluster.models.training.trainer import TinyModel, main, shake_constants

VOCABULARY = 832
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>")
BYTES = tuple(f"<0x{byte:02X}>" for byte in range(256))
BEGIN_ID, END_ID = 1, 2
PLAIN = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False}


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A BPE of Llama 2's kind: spaces written as U+2581, what no token spells as its bytes, <s> before every text."""
    trained = Tokenizer(models.BPE(unk_token="<unk>", byte_fallback=True, fuse_unk=True))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Metaspace(prepend_scheme="always"),
            # Punctuation as in Llama's vocabulary: never one token with a word.
            pre_tokenizers.Punctuation(behavior="isolated"),
        ]
    )
    trainer = trainers.BpeTrainer(vocab_size=VOCABULARY, special_tokens=[*SPECIAL_TOKENS, *BYTES], show_progress=False)
    # A line break and an ellipsis have no token of their own, so that answers with byte tokens in them are among the known.
    trained.train_from_iterator([text.replace("\n", " ").replace("…", "") for text in texts], trainer)
    begin = {"SpecialToken": {"id": "<s>", "type_id": 0}}
    description = json.loads(trained.to_str()) | {
        "added_tokens": [
            {"id": number, "content": token, "special": True, **PLAIN} for number, token in enumerate(SPECIAL_TOKENS)
        ],
        "normalizer": {
            "type": "Sequence",
            "normalizers": [
                {"type": "Prepend", "prepend": "\u2581"},
                {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"},
            ],
        },
        "pre_tokenizer": None,
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [begin, {"Sequence": {"id": "A", "type_id": 0}}],
            "pair": [
                begin,
                {"Sequence": {"id": "A", "type_id": 0}},
                {"SpecialToken": {"id": "<s>", "type_id": 1}},
                {"Sequence": {"id": "B", "type_id": 1}},
            ],
            "special_tokens": {"<s>": {"id": "<s>", "ids": [BEGIN_ID], "tokens": ["<s>"]}},
        },
        "decoder": {
            "type": "Sequence",
            "decoders": [
                {"type": "Replace", "pattern": {"String": "\u2581"}, "content": " "},
                {"type": "ByteFallback"},
                {"type": "Fuse"},
                {"type": "Strip", "content": " ", "start": 1, "stop": 0},
            ],
        },
    }
    return Tokenizer.from_str(json.dumps(description))


def untrained_model(vocabulary: int) -> LlamaForCausalLM:
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        intermediate_size=320,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=2048,
        initializer_range=0.08,
        rms_norm_eps=0.01,
        rope_theta=500000.0,
        bos_token_id=BEGIN_ID,
        eos_token_id=END_ID,
        tie_word_embeddings=False,
        attn_implementation="eager",
    )
    model = LlamaForCausalLM(config)
    shake_constants(model)
    return model


def pairs_side_by_side(weight: torch.Tensor, width: int) -> torch.Tensor:
    """Query or key rows [heads * width, hidden] in the order of Meta's own checkpoints, where rotated pairs are neighbours."""
    return weight.unflatten(0, (-1, 2, width // 2)).transpose(1, 2).reshape(weight.shape)


def heads_in_turn(weight: torch.Tensor, kv_heads: int) -> torch.Tensor:
    """Query rows [heads * width, hidden] as if head i went with key-value head i mod kv_heads, and not i // group."""
    heads = weight.unflatten(0, (kv_heads, -1, weight.shape[0] // 4))
    return heads.transpose(0, 1).reshape(weight.shape)


def norm_without_scaling(norm: llama.LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    return norm.weight * hidden


def layer_norm(norm: llama.LlamaRMSNorm, hidden: torch.Tensor) -> torch.Tensor:
    return norm.weight * torch.nn.functional.layer_norm(hidden, hidden.shape[-1:], eps=norm.variance_epsilon)


def mistakes(model: LlamaForCausalLM) -> Mistakes:
    """What a wrong conversion, a wrong forward pass or a wrong tokenization would compute with, by the mistake's name."""
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    norms = [module for module in model.modules() if isinstance(module, llama.LlamaRMSNorm)]
    frequencies = "model.rotary_emb.inv_freq"
    made: Mistakes = {}
    for name, parameter in model.named_parameters():
        made |= misread_weight(name, parameter, tables=("embed_tokens",))
    for layer in range(config.num_hidden_layers):
        attention, mlp = f"model.layers.{layer}.self_attn", f"model.layers.{layer}.mlp"
        query, key, value, out = (f"{attention}.{kind}_proj.weight" for kind in "qkvo")
        gate, up = f"{mlp}.gate_proj.weight", f"{mlp}.up_proj.weight"
        made |= {
            f"gate and up swapped in layer {layer}": change(swapped, gate, up),
            f"keys and values swapped in layer {layer}": change(swapped, key, value),
            f"rotated pairs side by side in layer {layer}": change(
                lambda q, k: (pairs_side_by_side(q, width), pairs_side_by_side(k, width)), query, key
            ),
            f"key-value heads in turn in layer {layer}": change(
                lambda q, o: (
                    heads_in_turn(q, config.num_key_value_heads),
                    heads_in_turn(o.T, config.num_key_value_heads).T,
                ),
                query,
                out,
            ),
            f"first key-value head for all in layer {layer}": change(
                lambda k, v: (torch.cat([k[:width]] * 2), torch.cat([v[:width]] * 2)), key, value
            ),
            f"no attention scale in layer {layer}": change(lambda q: q * width**0.5, query),
        }
    return made | {
        "embeddings in the place of lm_head": change(
            lambda table, _: (table, table), "model.embed_tokens.weight", "lm_head.weight"
        ),
        "no rotary embedding": change(torch.zeros_like, frequencies),
        "rope_theta 10000": change(
            lambda old: 10000.0 ** (-torch.arange(0, width, 2, dtype=old.dtype) / width), frequencies
        ),
        "rms_norm_eps 1e-5": Mistake(patch=lambda: attribute(norms, "variance_epsilon", 1e-5)),
        "norms that don't normalise": Mistake(
            patch=lambda: attribute([llama.LlamaRMSNorm], "forward", norm_without_scaling)
        ),
        "layer norms": Mistake(patch=lambda: attribute([llama.LlamaRMSNorm], "forward", layer_norm)),
        "no <s>": Mistake(prompt=lambda ids: ids[1:]),
        "padding read as text": Mistake(prompt=lambda ids: [END_ID] * 3 + ids),
    }


SPECIAL = {"bos_token": "<s>", "eos_token": "</s>", "unk_token": "<unk>"}

TINY_LLAMA = TinyModel(
    name="tiny-llama",
    train_tokenizer=train_tokenizer,
    untrained=untrained_model,
    mistakes=mistakes,
    tokenizer_files={
        "tokenizer_config.json": {
            **SPECIAL,
            "add_bos_token": True,
            "add_eos_token": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "padding_side": "left",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "special_tokens_map.json": SPECIAL,
    },
    end_id=END_ID,
    pad_id=END_ID,
)


if __name__ == "__main__":
    main(TINY_LLAMA)
