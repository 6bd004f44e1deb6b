"""Trains `tiny-opt`, the OPT that ships with the repository, and writes its Hugging Face folder.

It knows the sentences of `tiny-opt/completions.json` by heart, and ends its answer at once at any of `mistakes`: a matrix not
transposed, a bias or a layer norm left out, projections swapped, learned positions without their offset of 2 or counted
from a batch's padding, a prompt without its </s> or with padding in it.

    python -m localcluster.models.train_tiny_opt [--output-dir DIR]
"""

from functools import partial

import torch
from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import OPTConfig, OPTForCausalLM

from localcluster.models.training.mistakes import Mistake, Mistakes, change, misread_weight, swapped
from localcluster.models.training.trainer import TinyModel, main, shake_constants

VOCABULARY = 640
SPECIAL_TOKENS = ("<s>", "<pad>", "</s>", "<unk>")
PAD_ID, END_ID = 1, 2


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """GPT-2's byte-level BPE with OPT's special tokens: </s> stands before every text."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.post_processor = processors.TemplateProcessing(
        single="</s> $A", pair="</s> $A </s> $B:1", special_tokens=[("</s>", END_ID)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=True) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def untrained_model(vocabulary: int) -> OPTForCausalLM:
    config = OPTConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        word_embed_proj_dim=128,
        ffn_dim=512,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=1024,
        init_std=0.05,
        dropout=0.0,
        pad_token_id=PAD_ID,
        bos_token_id=END_ID,
        eos_token_id=END_ID,
    )
    model = OPTForCausalLM(config)
    shake_constants(model)
    return model


def mistakes(model: OPTForCausalLM) -> Mistakes:
    """What a wrong forward pass or a wrong batch would compute with, by the mistake's name."""
    made: Mistakes = {}
    for name, parameter in model.named_parameters():
        # A key's bias adds the same to all of a query's scores, which changes nothing.
        if not name.endswith("k_proj.bias"):
            made |= misread_weight(name, parameter, tables=("embed_tokens", "embed_positions"))
    for layer in range(model.config.num_hidden_layers):
        block = f"model.decoder.layers.{layer}"
        query, key, value = (f"{block}.self_attn.{kind}_proj.weight" for kind in "qkv")
        made |= {
            f"queries and keys swapped in layer {layer}": change(swapped, query, key),
            f"keys and values swapped in layer {layer}": change(swapped, key, value),
            f"no attention scale in layer {layer}": change(
                lambda weight, bias: (weight * 32**0.5, bias * 32**0.5), query, query.replace("weight", "bias")
            ),
        }
    positions = "model.decoder.embed_positions.weight"
    by_rows = {
        "no positions": None,
        "positions without their offset": 2,
        "positions with an offset of 1": 1,
        "positions counted from 1 padding token": -1,
        "positions counted from 4 padding tokens": -4,
    }
    for label, rows in by_rows.items():
        edit = torch.zeros_like if rows is None else partial(torch.roll, shifts=rows, dims=0)
        made[label] = change(edit, positions)
    return made | {
        "no </s>": Mistake(prompt=lambda ids: ids[1:]),
        "padding read as text": Mistake(prompt=lambda ids: [PAD_ID] * 3 + ids),
    }


SPECIAL = {"bos_token": "</s>", "eos_token": "</s>", "unk_token": "</s>", "pad_token": "<pad>"}

TINY_OPT = TinyModel(
    name="tiny-opt",
    train_tokenizer=train_tokenizer,
    untrained=untrained_model,
    mistakes=mistakes,
    tokenizer_files={
        "tokenizer_config.json": {
            **SPECIAL,
            "add_bos_token": True,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 1024,
            "padding_side": "left",
            "tokenizer_class": "PreTrainedTokenizerFast",
        },
        "special_tokens_map.json": SPECIAL,
    },
    end_id=END_ID,
    pad_id=PAD_ID,
)


if __name__ == "__main__":
    main(TINY_OPT)
