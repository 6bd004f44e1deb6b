"""From a checkpoint's folder to something that generates: the weights, the tokenizer, and the way of batching that suits the model."""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

# Nothing is downloaded where the model is served. Set before transformers is imported, which reads these once.
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_OFFLINE", "1")

import torch
import transformers

from engine_jobs.errors import UserError
from engine_jobs.triton_python.served.check import TOLERANCE, largest_error
from engine_jobs.triton_python.served.fused import Fusions
from engine_jobs.triton_python.served.schedulers import Outlet, Scheduler, SlotScheduler, WholeBatchScheduler
from engine_jobs.triton_python.served.slots import NotForSlots, SlotModel
from engine_jobs.triton_python.served.whole_batches import WholeBatchModel

IN_FLIGHT: Final = "in-flight"
WHOLE_BATCHES: Final = "whole-batches"


@dataclass(frozen=True, kw_only=True)
class Options:
    """The model's parameters in config.pbtxt. `max_length` 0: the checkpoint's own; `device`: cpu or cuda:N."""

    dtype: str
    max_length: int
    max_sequences: int
    trust_remote_code: bool
    batching: str
    cuda_graphs: bool
    fuse: bool
    decode_steps_between_prefills: int
    device: str

    @classmethod
    def read(cls, parameters: Mapping[str, str], device: str) -> "Options":
        return cls(
            dtype=parameters.get("dtype", "auto"),
            max_length=int(parameters.get("max_length", "0")),
            max_sequences=int(parameters.get("max_sequences", "16")),
            trust_remote_code=parameters.get("trust_remote_code", "false") == "true",
            batching=parameters.get("batching", "auto"),
            cuda_graphs=parameters.get("cuda_graphs", "true") == "true",
            fuse=parameters.get("fuse", "true") == "true",
            decode_steps_between_prefills=int(parameters.get("decode_steps_between_prefills", "2")),
            device=device,
        )


@dataclass(frozen=True, kw_only=True)
class Loaded:
    """`batching`: in-flight or whole-batches. `end_ids`: any of them ends an answer."""

    tokenizer: Any
    make_scheduler: Callable[[Outlet], Scheduler]
    batching: str
    max_length: int
    vocabulary: int
    end_ids: frozenset[int]


def load(folder: Path, options: Options, log: Callable[[str], None], warn: Callable[[str], None]) -> Loaded:
    """Raises UserError for a checkpoint that can't be served; says what it does, and what it falls back to and why."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder} holds no checkpoint: there is no config.json in it")
    tokenizer = _tokenizer(folder, options)
    model = _model(folder, options)
    config = model.config.get_text_config()
    max_length = _max_length(config, options, warn)
    vocabulary = model.get_input_embeddings().num_embeddings
    log(
        f"{type(model).__name__}: {sum(each.numel() for each in model.parameters()) / 1e6:,.1f} M parameters, "
        f"{str(model.dtype).removeprefix('torch.')} on {options.device}, torch {torch.__version__}, transformers {transformers.__version__}"
    )
    slots = None
    if options.batching != WHOLE_BATCHES:
        try:
            slots = _slots(model, vocabulary, max_length, options, log)
        except NotForSlots as reason:
            if options.batching == IN_FLIGHT:
                raise UserError(f"batching is set to {IN_FLIGHT}, which this model can't do: {reason}") from None
            warn(
                f"no in-flight batching for {type(model).__name__}: {reason}. It answers whole batches through generate."
            )
    made: Callable[[Outlet], Scheduler]
    if slots is not None:
        made = _slot_scheduler(slots, options)
    else:
        pad = next((each for each in (tokenizer.pad_token_id, tokenizer.eos_token_id) if each is not None), 0)
        whole = WholeBatchModel(model, rows=options.max_sequences, max_length=max_length, pad_id=pad)
        made = lambda outlet: WholeBatchScheduler(whole, outlet)  # noqa: E731
    return Loaded(
        tokenizer=tokenizer,
        make_scheduler=made,
        batching=IN_FLIGHT if slots is not None else WHOLE_BATCHES,
        max_length=max_length,
        vocabulary=vocabulary,
        end_ids=_end_ids(model, tokenizer),
    )


def _slot_scheduler(slots: SlotModel, options: Options) -> Callable[[Outlet], Scheduler]:
    pause = options.decode_steps_between_prefills
    return lambda outlet: SlotScheduler(slots, outlet, decode_steps_between_prefills=pause)


def _slots(model: Any, vocabulary: int, max_length: int, options: Options, log: Callable[[str], None]) -> SlotModel:
    # Without the fusions first: what the model itself can't do in slots is not their fault.
    slots = SlotModel(model, rows=options.max_sequences, max_length=max_length)
    _check(model, slots, vocabulary, log, "")
    if options.device != "cpu" and options.fuse:
        fusions = Fusions(model)
        try:
            _check(model, slots, vocabulary, log, f" with {fusions.summary}")
        except NotForSlots as reason:
            log(f"kernels stay as they are: {reason}")
            fusions.take_back()
    if options.device != "cpu" and options.cuda_graphs:
        try:
            slots.capture_graphs(log)
        except Exception as error:
            # Such as a mixture of experts that picks its experts on the host.
            log(f"no CUDA graphs, each step is launched kernel by kernel: {error}")
            torch.cuda.synchronize()
        else:
            _check(model, slots, vocabulary, log, " with CUDA graphs")
    return slots


def _check(model: Any, slots: SlotModel, vocabulary: int, log: Callable[[str], None], how: str) -> None:
    try:
        error = largest_error(model, slots, vocabulary)
    except (RuntimeError, TypeError, ValueError, AttributeError, KeyError, IndexError) as failure:
        text = str(failure).partition("\n")[0]
        raise NotForSlots(
            f"its forward does not take masks and positions per row ({type(failure).__name__}: {text})"
        ) from None
    tolerance = TOLERANCE.get(model.dtype, max(TOLERANCE.values()))
    if error > tolerance:
        raise NotForSlots(
            f"its logits in a mixed batch are {error:.1e} off those of a prompt alone (allowed: {tolerance:.0e})"
        )
    log(f"in-flight batching{how}: logits in a mixed batch within {error:.1e} of those of a prompt alone")


def _model(folder: Path, options: Options) -> Any:
    dtype = torch.float32 if options.dtype == "auto" and options.device == "cpu" else options.dtype
    try:
        model = transformers.AutoModelForCausalLM.from_pretrained(
            folder,
            dtype=dtype if isinstance(dtype, torch.dtype) or dtype == "auto" else getattr(torch, dtype),
            device_map=None if options.device == "cpu" else {"": options.device},
            trust_remote_code=options.trust_remote_code,
            local_files_only=True,
        )
    except torch.cuda.OutOfMemoryError:
        raise UserError(f"the weights in {folder} do not fit in the memory of {options.device}") from None
    except (ValueError, OSError, ImportError, KeyError) as error:
        raise UserError(
            f"{folder}: transformers {transformers.__version__} can't load this checkpoint: {error}"
        ) from None
    return model.eval()


def _tokenizer(folder: Path, options: Options) -> Any:
    try:
        return transformers.AutoTokenizer.from_pretrained(
            folder, trust_remote_code=options.trust_remote_code, local_files_only=True
        )
    except (ValueError, OSError, ImportError, KeyError, TypeError) as error:
        raise UserError(f"{folder}: no tokenizer can be loaded, so no text becomes tokens: {error}") from None


def _max_length(config: Any, options: Options, warn: Callable[[str], None]) -> int:
    own = getattr(config, "max_position_embeddings", None)
    if not options.max_length:
        return min(own or 2048, 2048)
    if own and options.max_length > own:
        warn(f"max_length {options.max_length} is above the checkpoint's max_position_embeddings, {own}: {own} it is")
        return int(own)
    return options.max_length


def _end_ids(model: Any, tokenizer: Any) -> frozenset[int]:
    found = [getattr(model.generation_config, "eos_token_id", None), tokenizer.eos_token_id]
    ids: set[int] = set()
    for each in found:
        ids.update(each if isinstance(each, list) else [] if each is None else [each])
    return frozenset(ids)
