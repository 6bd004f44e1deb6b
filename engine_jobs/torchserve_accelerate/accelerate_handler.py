"""TorchServe's handler of a causal language model that Accelerate spreads over GPUs, memory and disk.

It travels in the model archive, beside `model.zip` (the checkpoint, its files at the root) and `setup_config.json`, and runs in
TorchServe's worker, so it imports nothing of this project and keeps to Python 3.9, which TorchServe's GPU images have.

A request is the v1 protocol's: {"instances": [PROMPT, …]}, a prompt being a text or {"data": TEXT, "max_new_tokens": N}; an
answer is {"predictions": [TEXT, …]}, each text the prompt and what follows. Requests that TorchServe hands over together are
generated together: padded on the left and masked, each gets what it would get alone. What is wrong with a request is
answered with 400 to that request only. Decoding is greedy.

TorchServe's own `kserve` envelope is left off: it looks at the first request of a batch only.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import logging
import shutil
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

logger = logging.getLogger(__name__)

MODEL_ZIP = "model.zip"
SETUP_CONFIG = "setup_config.json"
SNAPSHOT = "snapshot"
INSTANCE_KEYS = ("data", "max_new_tokens")
LOADED_WITH = ("device_map", "low_cpu_mem_usage", "offload_state_dict")
"""Keys of setup_config.json that go to `from_pretrained` as they are."""


class BadRequest(Exception):
    """The caller's mistake: its text says what is wrong and what to do, and the caller gets it with status 400."""


@dataclass(frozen=True)
class Prompt:
    """`max_new_tokens` None: up to the model's max_length."""

    text: str
    max_new_tokens: int | None = None


def read_prompts(row: Mapping[str, Any]) -> list[Prompt]:
    """The prompts of one request as TorchServe hands it over: its body under `body` or `data`, JSON already parsed where the
    content type says so. Raises BadRequest."""
    body = row.get("data", row.get("body"))
    if isinstance(body, (bytes, bytearray)):
        try:
            body = body.decode("utf-8")
        except UnicodeDecodeError:
            raise BadRequest("the body is not UTF-8") from None
    if isinstance(body, str):
        body = _parse(body)
    if body is None:
        raise BadRequest('no body: POST {"instances": [TEXT, …]} with the header Content-Type: application/json')
    if not isinstance(body, dict) or not isinstance(body.get("instances"), list):
        raise BadRequest('the body has no list "instances": POST {"instances": [TEXT, …]}')
    if not body["instances"]:
        raise BadRequest('"instances" is empty')
    return [_prompt(instance, f"instances[{i}]") for i, instance in enumerate(body["instances"])]


def _parse(text: str) -> Any:
    if not text.strip():
        return None
    try:
        return json.loads(text)
    except ValueError as error:
        raise BadRequest(f"the body is not JSON: {error}") from None


def _prompt(instance: Any, where: str) -> Prompt:
    if isinstance(instance, dict):
        unknown = sorted(set(instance) - set(INSTANCE_KEYS))
        if unknown:
            raise BadRequest(f"{where}: unknown key {unknown[0]!r}; known: {', '.join(INSTANCE_KEYS)}")
        text, limit = instance.get("data"), instance.get("max_new_tokens")
    else:
        text, limit = instance, None
    if not isinstance(text, str):
        raise BadRequest(f'{where}: a text is wanted, or {{"data": TEXT}}')
    if not text:
        raise BadRequest(f"{where}: the prompt is empty")
    if not text.isascii() and text.encode(errors="ignore").decode() != text:  # JSON can escape half a surrogate pair
        raise BadRequest(f"{where}: the text has half a surrogate pair, which is no character")
    if limit is not None and (isinstance(limit, bool) or not isinstance(limit, int) or limit < 1):
        raise BadRequest(f"{where}: max_new_tokens is a whole number from 1 on, not {limit!r}")
    return Prompt(text, limit)


def max_memory(config: Mapping[str, Any], gpus: int) -> dict[int | str, str] | None:
    """Accelerate's `max_memory`: GPUs by number, as many as there are. None: Accelerate measures by itself."""
    wanted = config.get("max_memory")
    if wanted is None:
        return None
    limits: dict[int | str, str] = {}
    for device, size in wanted.items():
        if not str(device).isdigit():
            limits[device] = size
        elif int(device) < gpus:
            limits[int(device)] = size
        else:
            logger.warning("max_memory: there is no GPU %s (%d visible); going on without it", device, gpus)
    return limits


def extract(archive: Path, target: Path) -> None:
    """Unpacks model.zip once, complete or not at all, however many workers start at a time; then removes it, for a 7B
    checkpoint is 14 GB. Raises ValueError for an archive that would write elsewhere, or has no config.json at its root."""
    with _only_one(target):
        if target.is_dir():
            return
        partial = target.with_name(f".{target.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        with zipfile.ZipFile(archive) as members:
            names = members.namelist()
            for name in names:
                if Path(name).is_absolute() or ".." in Path(name).parts or "\\" in name:
                    raise ValueError(f"{archive}: the name {name!r} leads out of the archive")
            if "config.json" not in names:
                raise ValueError(f"{archive} has no config.json at its root; zip the snapshot's files, not its folders")
            members.extractall(partial)
        partial.rename(target)
        archive.unlink()


@contextlib.contextmanager
def _only_one(target: Path) -> Iterator[None]:
    with target.with_name(f".{target.name}.lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


class Generator:
    """A model, its tokenizer (which pads on the left), and the longest text in tokens, prompt included."""

    def __init__(self, torch: Any, model: Any, tokenizer: Any, max_length: int) -> None:
        self.torch, self.model, self.tokenizer, self.max_length = torch, model, tokenizer, max_length
        ends = getattr(model.generation_config, "eos_token_id", None)
        self.ends = {ends} if isinstance(ends, int) else set(ends or ())

    def texts(self, prompts: Sequence[Prompt]) -> list[str | BadRequest]:
        """For each prompt its text with what follows, or what is wrong with it."""
        asked = [self._tokens(prompt) for prompt in prompts]
        good = [found for found in asked if not isinstance(found, BadRequest)]
        generated = iter(self._generate(good) if good else ())
        return [found if isinstance(found, BadRequest) else next(generated) for found in asked]

    def _tokens(self, prompt: Prompt) -> tuple[list[int], int] | BadRequest:
        """A prompt's token ids, and how many may follow."""
        ids = list(self.tokenizer(prompt.text)["input_ids"])
        left = self.max_length - len(ids)
        if not ids:
            return BadRequest("the prompt is empty: it has no tokens")
        if left < 1:
            return BadRequest(
                f"the prompt has {len(ids)} tokens, and prompt and answer together may have {self.max_length} "
                "(max_length): shorten it"
            )
        return ids, min(left, prompt.max_new_tokens or left)

    def _generate(self, rows: Sequence[tuple[list[int], int]]) -> Iterator[str]:
        width = max(len(ids) for ids, _ in rows)
        pad = self.tokenizer.pad_token_id
        device = self.model.get_input_embeddings().weight.device
        if device.type == "meta":  # offloaded to disk: Accelerate's hooks bring it to where the work is done
            device = self.torch.device("cuda", 0) if self.torch.cuda.is_available() else self.torch.device("cpu")
        padded = [[pad] * (width - len(ids)) + ids for ids, _ in rows]
        mask = [[0] * (width - len(ids)) + [1] * len(ids) for ids, _ in rows]
        with self.torch.inference_mode():
            output = self.model.generate(
                input_ids=self.torch.tensor(padded, device=device),
                attention_mask=self.torch.tensor(mask, device=device),
                max_new_tokens=max(limit for _, limit in rows),
                do_sample=False,
                num_beams=1,
                pad_token_id=pad,
            )
        sequences = output.tolist()
        for i, (ids, limit) in enumerate(rows):
            new = sequences[i][width : width + limit]
            end = next((i for i, token in enumerate(new) if token in self.ends), len(new))
            yield self.tokenizer.decode(ids + new[:end], skip_special_tokens=True)


def load(model_dir: Path) -> Generator:
    """The model of an unpacked archive. Raises what transformers raises; TorchServe logs it and starts the worker again."""
    import torch
    import transformers

    config = json.loads((model_dir / SETUP_CONFIG).read_text(encoding="utf-8"))
    snapshot = model_dir / SNAPSHOT
    extract(model_dir / MODEL_ZIP, snapshot)
    with_accelerate = {key: config[key] for key in LOADED_WITH if config.get(key) is not None}
    if config.get("offload_folder"):
        with_accelerate["offload_folder"] = str(model_dir / config["offload_folder"])
    limits = max_memory(config, torch.cuda.device_count())
    if limits and "device_map" in with_accelerate:
        with_accelerate["max_memory"] = limits
    dtype = config.get("torch_dtype", "auto")
    # transformers 4.56 renamed the argument, and 5 warns of the old name.
    new_name = tuple(int(part) for part in transformers.__version__.split(".")[:2]) >= (4, 56)
    with_accelerate["dtype" if new_name else "torch_dtype"] = dtype if dtype == "auto" else getattr(torch, dtype)
    model = transformers.AutoModelForCausalLM.from_pretrained(snapshot, local_files_only=True, **with_accelerate)
    model.eval()
    tokenizer = transformers.AutoTokenizer.from_pretrained(snapshot, local_files_only=True, padding_side="left")
    if tokenizer.pad_token_id is None:
        tokenizer.pad_token = tokenizer.eos_token or tokenizer.unk_token
    logger.info("loaded with %s, placed on %s", with_accelerate, getattr(model, "hf_device_map", model.device))
    return Generator(torch, model, tokenizer, int(config["max_length"]))


def answer(generator: Generator, rows: Sequence[Mapping[str, Any]]) -> list[list[str] | BadRequest]:
    """For each request its predictions, or what is wrong with it; all good requests are generated in one batch."""
    asked: list[list[Prompt] | BadRequest] = []
    for row in rows:
        try:
            asked.append(read_prompts(row))
        except BadRequest as error:
            asked.append(error)
    texts = iter(generator.texts([prompt for prompts in asked if isinstance(prompts, list) for prompt in prompts]))
    answers: list[list[str] | BadRequest] = []
    for prompts in asked:
        if isinstance(prompts, BadRequest):
            answers.append(prompts)
            continue
        found = [next(texts) for _ in prompts]
        wrong = next((f"instances[{i}]: {text}" for i, text in enumerate(found) if isinstance(text, BadRequest)), None)
        answers.append(BadRequest(wrong) if wrong else [text for text in found if isinstance(text, str)])
    return answers


_loaded: list[Generator] = []


def handle(data: Sequence[Mapping[str, Any]] | None, context: Any) -> list[dict[str, Any]] | None:
    """What TorchServe calls: once with None to load the model, then with each batch of requests."""
    if data is None:
        _loaded[:] = [load(Path(context.system_properties["model_dir"]))]
        return None
    responses: list[dict[str, Any]] = []
    for i, found in enumerate(answer(_loaded[0], data)):
        context.set_response_content_type(i, "application/json")
        if isinstance(found, BadRequest):
            context.set_response_status(code=400, phrase="Bad Request", idx=i)
            responses.append({"error": str(found)})
        else:
            responses.append({"predictions": found})
    return responses
