"""The files of a model's repository: which of them serving needs, and whether one arrived as the Hub lists it."""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path

from engine_jobs.errors import UserError

# The first pattern that any file matches gives the weights: some repositories hold them in several formats at once.
WEIGHTS = ("model*.safetensors", "*.safetensors", "pytorch_model*.bin", "*.bin")
INDEX = {"safetensors": "model.safetensors.index.json", "bin": "pytorch_model.bin.index.json"}
# All else that a tokenizer or a converter reads. Never code: a checkpoint is data.
TEXTS = (
    "config.json", "generation_config.json", "tokenizer*.json", "special_tokens_map.json", "added_tokens.json",
    "vocab.json", "vocab.txt", "merges.txt", "chat_template.*", "tokenizer*.model", "spiece.model",
    "sentencepiece*.model", "*.tiktoken",
)  # fmt: skip


@dataclass(frozen=True, kw_only=True)
class RemoteFile:
    """A file as the Hub lists it, its size in bytes. LFS files have a `sha256`; of others `blob_id` is git's hash."""

    path: str
    size: int
    blob_id: str
    sha256: str | None


def select(files: Iterable[RemoteFile], model: str) -> list[RemoteFile]:
    """What serving needs, at the repository's top level: one format of weights, its index, configuration, tokenizer.

    Raises UserError where there is no config.json or are no weights.
    """
    top = {file.path: file for file in files if "/" not in file.path}
    if "config.json" not in top:
        raise UserError(f"{model} has no config.json, so it is no checkpoint of a model. Check the id.")
    weights = next((found for pattern in WEIGHTS if (found := [path for path in top if fnmatch(path, pattern)])), [])
    if not weights:
        raise UserError(f"{model} has no *.safetensors and no *.bin at its top level: there are no weights to serve.")
    index = INDEX[weights[0].rpartition(".")[2]]
    texts = [path for path in top if path == index or any(fnmatch(path, pattern) for pattern in TEXTS)]
    return [top[path] for path in sorted({*weights, *texts})]


def is_intact(path: Path, file: RemoteFile) -> bool:
    """Whether the file has the size and the hash that the Hub lists."""
    if not path.is_file() or path.stat().st_size != file.size:
        return False
    digest = hashlib.sha256() if file.sha256 else hashlib.sha1(b"blob %d\0" % file.size)
    with path.open("rb") as stream:
        while chunk := stream.read(2**20):
            digest.update(chunk)
    return digest.hexdigest() == (file.sha256 or file.blob_id)
