"""A Llama-like tokenizer in miniature: BOS first, "▁" for a space and at the start, bytes as tokens where no letter is known."""

import json
from pathlib import Path

import tokenizers
from tokenizers import decoders, models, normalizers, processors

END = 2
LETTERS = "▁\nabcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.,?!"


def write_tokenizer(folder: Path) -> Path:
    """tokenizer.json and tokenizer_config.json; ids 0-2 are <unk>, <s>, </s>, 3-258 the bytes, then the letters."""
    names = ["<unk>", "<s>", "</s>", *(f"<0x{byte:02X}>" for byte in range(256)), *LETTERS, "▁c", "af"]
    vocabulary = {name: index for index, name in enumerate(names)}
    model = models.BPE(
        vocab=vocabulary, merges=[("▁", "c"), ("a", "f")], unk_token="<unk>", byte_fallback=True, fuse_unk=True
    )
    tokenizer = tokenizers.Tokenizer(model)
    tokenizer.add_special_tokens(["<unk>", "<s>", "</s>"])
    tokenizer.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    tokenizer.decoder = decoders.Sequence(
        [decoders.Replace("▁", " "), decoders.ByteFallback(), decoders.Fuse(), decoders.Strip(" ", 1, 0)]
    )
    tokenizer.post_processor = processors.TemplateProcessing(single="<s> $A", special_tokens=[("<s>", 1)])
    folder.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(folder / "tokenizer.json"))
    config = {"bos_token": "<s>", "eos_token": {"content": "</s>", "special": True}, "pad_token": None}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))
    return folder
