"""A checkpoint's tokenizer: `tokenizer.json` through the `tokenizers` library, any other kind through transformers."""

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_jobs.errors import UserError


@dataclass(frozen=True, kw_only=True)
class Tokenizer:
    """`encode(text, add_special_tokens)` gives ids, `decode(ids, skip_special_tokens)` text. `end_id` ends a generation; `pad_id`
    fills a batch's short rows: the padding token's, else the end token's, as TensorRT-LLM's models take it."""

    encode: Callable[[str, bool], list[int]]
    decode: Callable[[Sequence[int], bool], str]
    end_id: int
    pad_id: int
    size: int


def read_tokenizer(folder: Path) -> Tokenizer:
    """Raises UserError for a folder without a tokenizer, or one that names no end token."""
    if not folder.is_dir():
        raise UserError(f"tokenizer_dir {folder} is not a folder: publish the checkpoint's tokenizer there")
    if (folder / "tokenizer.json").is_file():
        return _from_json(folder)
    return _from_transformers(folder)


def _from_json(folder: Path) -> Tokenizer:
    import tokenizers

    try:
        tokenizer = tokenizers.Tokenizer.from_file(str(folder / "tokenizer.json"))
    except Exception as error:  # the library raises nothing more special
        raise UserError(f"{folder / 'tokenizer.json'} cannot be read: {error}") from error
    # What a tokenizer.json says of padding and truncation is its training's; a request has its own length.
    tokenizer.no_padding()
    tokenizer.no_truncation()
    names = _special_tokens(folder)
    end_id = _id(tokenizer, names.get("eos_token"))
    if end_id is None:
        raise UserError(f"{folder}: neither tokenizer_config.json nor special_tokens_map.json names an eos_token of it")
    pad_id = _id(tokenizer, names.get("pad_token"))
    return Tokenizer(
        encode=lambda text, special: list(tokenizer.encode(text, add_special_tokens=special).ids),
        decode=lambda ids, skip: str(tokenizer.decode(list(ids), skip_special_tokens=skip)),
        end_id=end_id,
        pad_id=end_id if pad_id is None else pad_id,
        size=tokenizer.get_vocab_size(with_added_tokens=True),
    )


def _id(tokenizer: Any, name: str | None) -> int | None:
    found = None if name is None else tokenizer.token_to_id(name)
    return None if found is None else int(found)


def _special_tokens(folder: Path) -> dict[str, str]:
    """The names of the special tokens: a string each, or an object with `content`. tokenizer_config.json has the last word."""
    names: dict[str, str] = {}
    for file in (folder / "special_tokens_map.json", folder / "tokenizer_config.json"):
        if not file.is_file():
            continue
        try:
            content = json.loads(file.read_text(encoding="utf-8"))
        except ValueError as error:
            raise UserError(f"{file} is not JSON: {error}") from error
        for key in ("eos_token", "pad_token"):
            value = content.get(key)
            if isinstance(value, dict):
                value = value.get("content")
            if isinstance(value, str):
                names[key] = value
    return names


def _from_transformers(folder: Path) -> Tokenizer:
    try:
        import transformers
    except ImportError:
        raise UserError(
            f"{folder} has no tokenizer.json, and this image has no transformers to read another kind of tokenizer. Save a fast one "
            "there: AutoTokenizer.from_pretrained(…).save_pretrained(…)"
        ) from None
    try:
        tokenizer = transformers.AutoTokenizer.from_pretrained(str(folder), local_files_only=True)
    except (OSError, ValueError) as error:
        raise UserError(f"{folder} holds no tokenizer that transformers can read: {error}") from error
    if tokenizer.eos_token_id is None:
        raise UserError(f"{folder}: the tokenizer names no eos_token")
    end_id = int(tokenizer.eos_token_id)
    return Tokenizer(
        encode=lambda text, special: list(tokenizer.encode(text, add_special_tokens=special)),
        decode=lambda ids, skip: str(tokenizer.decode(list(ids), skip_special_tokens=skip)),
        end_id=end_id,
        pad_id=end_id if tokenizer.pad_token_id is None else int(tokenizer.pad_token_id),
        size=len(tokenizer),
    )
