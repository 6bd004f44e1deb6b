"""Trains `tiny-bloom`, the BLOOM that ships with the repository, and writes its Hugging Face folder.

The model knows the sentences of `tiny-bloom/completions.json` by heart and completes them word for word, greedily. It is
there to show mistakes: while it learns to answer, it also learns to end the answer at once when a weight is transposed, a
head is split wrongly, a bias or a layer norm is left out or an ALiBi slope is off (`mistakes`). So any of these, anywhere
between the checkpoint and the answer, is seen in the text. Heads are 32 wide, the smallest that FasterTransformer's
attention kernels take, and tensor parallel sizes 1, 2 and 4 divide them.

    python -m localcluster.models.train_tiny_bloom [--output-dir DIR]
"""

from collections.abc import Callable

import torch
import transformers.models.bloom.modeling_bloom as bloom
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, pre_tokenizers, processors, trainers
from transformers import BloomConfig, BloomForCausalLM

from localcluster.models.training.mistakes import Mistake, Mistakes, attribute, change, misread_weight
from localcluster.models.training.trainer import TinyModel, main, shake_constants

VOCABULARY = 640
SPECIAL_TOKENS = ("<unk>", "<s>", "</s>", "<pad>")
# BLOOM's own pre-tokenizer: a word takes the space before it; punctuation stands alone.
WORDS = r" ?[^(\s|[.,!?…。，、।۔،])]+"  # noqa: RUF001


def train_tokenizer(texts: list[str]) -> Tokenizer:
    """A byte-level BPE of BLOOM's kind with about VOCABULARY tokens, the four special ones first."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(WORDS), behavior="isolated", invert=False),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.post_processor = processors.ByteLevel(trim_offsets=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=[AddedToken(token, special=True, normalized=False) for token in SPECIAL_TOKENS],
        initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    return tokenizer


def untrained_model(vocabulary: int) -> BloomForCausalLM:
    config = BloomConfig(
        vocab_size=vocabulary,
        hidden_size=128,
        n_layer=2,
        n_head=4,
        initializer_range=0.05,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        bos_token_id=1,
        eos_token_id=2,
        pad_token_id=3,
    )
    model = BloomForCausalLM(config)
    shake_constants(model)
    return model


def split_by_kind(tensor: torch.Tensor, heads: int) -> torch.Tensor:
    """A fused QKV weight or bias read as [3, heads, width], where BLOOM writes [heads, 3, width]."""
    return tensor.unflatten(0, (heads, 3, -1)).transpose(0, 1).reshape(tensor.shape)


SLOPE_MISTAKES: dict[str, Callable[[torch.Tensor], torch.Tensor]] = {
    "no ALiBi": torch.zeros_like,
    "ALiBi of the heads in reverse": lambda alibi: alibi.flip(0),
    "ALiBi slopes squared": lambda alibi: alibi * alibi.abs().amax(dim=(1, 2), keepdim=True) / alibi.shape[-1],
}


def wrong_slopes(edit: Callable[[torch.Tensor], torch.Tensor]) -> Mistake:
    right = bloom.build_alibi_tensor
    return Mistake(patch=lambda: attribute([bloom], "build_alibi_tensor", lambda *arguments: edit(right(*arguments))))


def mistakes(model: BloomForCausalLM) -> Mistakes:
    """What a wrong conversion or a wrong forward pass would compute with, by the mistake's name."""
    heads = model.config.n_head
    made: Mistakes = {}
    for name, parameter in model.named_parameters():
        if "query_key_value" in name:
            made[f"wrong head split of {name}"] = change(lambda tensor: split_by_kind(tensor, heads), name)
        made |= misread_weight(name, parameter, tables=("word_embeddings",))
    return made | {name: wrong_slopes(edit) for name, edit in SLOPE_MISTAKES.items()}


SPECIAL = {"unk_token": "<unk>", "bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}

TINY_BLOOM = TinyModel(
    name="tiny-bloom",
    train_tokenizer=train_tokenizer,
    untrained=untrained_model,
    mistakes=mistakes,
    tokenizer_files={
        "tokenizer_config.json": {
            **SPECIAL,
            "add_prefix_space": False,
            "clean_up_tokenization_spaces": False,
            "model_max_length": 2048,
            "padding_side": "left",
            "tokenizer_class": "BloomTokenizerFast",
        },
        "special_tokens_map.json": SPECIAL,
    },
    end_id=SPECIAL_TOKENS.index("</s>"),
    pad_id=SPECIAL_TOKENS.index("<pad>"),
)


if __name__ == "__main__":
    main(TINY_BLOOM)
