"""Writes the Triton model repository of a BLOOM that `convert` has made FasterTransformer weights of.

    <output-dir>/fastertransformer/config.pbtxt
    <output-dir>/fastertransformer/1/{config.ini,*.bin}       hard links where the file system allows, else copies
    <output-dir>/fastertransformer/1/tokenizer/tokenizer*.json …
    <output-dir>/fastertransformer/1/{model.py,engine_jobs/…} only for the CPU stand-in

Written beside its final name, then renamed. config.pbtxt goes through Triton's own ModelConfig message. Its tensors and
parameters are those of triton-inference-server/fastertransformer_backend all_models/bloom/fastertransformer/config.pbtxt.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_jobs import errors
from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.layout import CONFIG_NAME, ITEM_SIZES, WeightsFolder

NAME: Final = "fastertransformer"
VERSION: Final = "1"
SERVED_PATH: Final = f"/mnt/models/{NAME}/{VERSION}"
"""Where KServe's storage initializer puts the version folder."""

FASTER_TRANSFORMER: Final = "fastertransformer"
CPU_STAND_IN: Final = "python-cpu-stand-in"
TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

SCALAR: Final[tuple[int, ...]] = ()
"""One value a row: dims [1] for the client, nothing for the backend."""

INPUTS: Final[tuple[tuple[str, str, tuple[int, ...], bool], ...]] = (
    ("input_ids", "TYPE_UINT32", (-1,), False),
    ("input_lengths", "TYPE_UINT32", SCALAR, False),
    ("request_output_len", "TYPE_UINT32", (-1,), False),
    ("runtime_top_k", "TYPE_UINT32", SCALAR, True),
    ("runtime_top_p", "TYPE_FP32", SCALAR, True),
    ("beam_search_diversity_rate", "TYPE_FP32", SCALAR, True),
    ("temperature", "TYPE_FP32", SCALAR, True),
    ("len_penalty", "TYPE_FP32", SCALAR, True),
    ("repetition_penalty", "TYPE_FP32", SCALAR, True),
    ("random_seed", "TYPE_UINT64", SCALAR, True),
    ("is_return_log_probs", "TYPE_BOOL", SCALAR, True),
    ("is_return_context_embeddings", "TYPE_BOOL", SCALAR, True),
    ("beam_width", "TYPE_UINT32", SCALAR, True),
    ("start_id", "TYPE_UINT32", SCALAR, True),
    ("end_id", "TYPE_UINT32", SCALAR, True),
    ("stop_words_list", "TYPE_INT32", (2, -1), True),
    ("bad_words_list", "TYPE_INT32", (2, -1), True),
    ("prompt_learning_task_name_ids", "TYPE_UINT32", SCALAR, True),
    ("request_prompt_embedding", "TYPE_FP16", (-1, -1), True),
    ("request_prompt_lengths", "TYPE_UINT32", SCALAR, True),
    ("request_prompt_type", "TYPE_UINT32", SCALAR, True),
    ("top_p_decay", "TYPE_FP32", SCALAR, True),
    ("top_p_min", "TYPE_FP32", SCALAR, True),
    ("top_p_reset_ids", "TYPE_UINT32", SCALAR, True),
)
"""Name, type, dims of a row, optional."""

OUTPUTS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("output_ids", "TYPE_UINT32", (-1, -1)),
    ("sequence_length", "TYPE_UINT32", (-1,)),
    ("response_input_lengths", "TYPE_INT32", (-1,)),
    ("cum_log_probs", "TYPE_FP32", (-1,)),
    ("output_log_probs", "TYPE_FP32", (-1, -1)),
    ("context_embeddings", "TYPE_FP32", (-1, -1)),
)

PACKAGE: Final = Path(errors.__file__).resolve().parent
STAND_IN_FILES: Final = (
    "__init__.py",
    "errors.py",
    "fastertransformer/__init__.py",
    "fastertransformer/layout.py",
    "fastertransformer/cpu_backend/__init__.py",
    "fastertransformer/cpu_backend/bloom.py",
    "fastertransformer/cpu_backend/generation.py",
    "fastertransformer/cpu_backend/tensors.py",
)
"""What model.py imports, by its path under engine_jobs: it travels with the model, not with Triton's image."""


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What to write: `data_type` is the type that the backend computes in (fp16, fp32)."""

    weights: WeightsFolder
    checkpoint_dir: Path
    output_dir: Path
    backend: str
    data_type: str
    pipeline_parallel_size: int
    served_path: str

    def parameters(self) -> dict[str, str]:
        """FasterTransformer's parameters in config.pbtxt."""
        return {
            "tensor_para_size": str(self.weights.ranks),
            "pipeline_para_size": str(self.pipeline_parallel_size),
            "data_type": self.data_type,
            "model_type": "GPT",
            "model_checkpoint_path": self.served_path,
            "int8_mode": "0",
            "enable_custom_all_reduce": "0",
        }


def model_config(repository: Repository) -> Any:
    """Triton's ModelConfig message."""
    stand_in = repository.backend == CPU_STAND_IN
    config = model_config_pb2.ModelConfig(
        name=NAME, backend="python" if stand_in else FASTER_TRANSFORMER, max_batch_size=1024
    )
    # A message that is all defaults is written only where it is set: `decoupled: false` is said outright.
    config.model_transaction_policy.CopyFrom(model_config_pb2.ModelTransactionPolicy(decoupled=False))
    for name, kind, dims, optional in INPUTS:
        tensor = config.input.add(name=name, data_type=kind, dims=dims or (1,), optional=optional)
        if not dims:
            tensor.reshape.CopyFrom(model_config_pb2.ModelTensorReshape())
    for name, kind, dims in OUTPUTS:
        config.output.add(name=name, data_type=kind, dims=dims)
    config.instance_group.add(count=1, kind="KIND_CPU")
    for name, value in repository.parameters().items():
        config.parameters[name].string_value = value
    if stand_in:
        config.parameters["stand_in"].string_value = "numpy on the CPU in place of FasterTransformer's backend"
    return config


def write(repository: Repository) -> None:
    """Writes the repository unless it is there already. Raises UserError; leaves nothing half-written under its name."""
    repository.weights.check()
    tokenizer = _tokenizer_files(repository.checkpoint_dir)
    config = text_format.MessageToString(model_config(repository))
    final = repository.output_dir
    partial = final.with_name(f".{final.name}.partial")
    if final.exists():
        _check_same(repository, config, tokenizer)
        print(f"{final} is complete, nothing to do", file=sys.stderr)
        return
    if partial.exists():
        shutil.rmtree(partial)
    version = partial / NAME / VERSION
    (version / "tokenizer").mkdir(parents=True)
    try:
        (partial / NAME / "config.pbtxt").write_text(config, encoding="utf-8")
        for name in (CONFIG_NAME, *repository.weights.sizes()):
            _link_or_copy(repository.weights.path / name, version / name)
        for file in tokenizer:
            shutil.copyfile(file, version / "tokenizer" / file.name)
        for name in _stand_in_files(repository):
            (version / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(_stand_in_files(repository)[name], version / name)
        _sync(partial)
        partial.rename(final)
        _sync_one(final.parent)
    finally:
        shutil.rmtree(partial, ignore_errors=True)
    print(f"wrote {final}: model {NAME}, backend {repository.backend}", file=sys.stderr)


def _stand_in_files(repository: Repository) -> dict[str, Path]:
    """Where each file of the CPU stand-in comes from, by its path in the version folder."""
    if repository.backend != CPU_STAND_IN:
        return {}
    files = {f"{PACKAGE.name}/{name}": PACKAGE / name for name in STAND_IN_FILES}
    return {"model.py": PACKAGE / "fastertransformer" / "cpu_backend" / "model.py", **files}


def _check_same(repository: Repository, config: str, tokenizer: Sequence[Path]) -> None:
    """Raises UserError when the repository that is there was made from something else."""
    final = repository.output_dir
    version = final / NAME / VERSION
    pairs = [(file, version / "tokenizer" / file.name) for file in tokenizer]
    pairs += [(source, version / name) for name, source in _stand_in_files(repository).items()]
    pairs.append((repository.weights.path / CONFIG_NAME, version / CONFIG_NAME))
    try:
        same = (final / NAME / "config.pbtxt").read_text(encoding="utf-8") == config
        same = same and all(source.read_bytes() == target.read_bytes() for source, target in pairs)
        WeightsFolder.read(version).check()
    except (FileNotFoundError, UserError):
        same = False
    if not same:
        raise UserError(
            f"{final} exists and was made from other files or settings. Move it away, or choose another --output-dir."
        )


def _tokenizer_files(checkpoint: Path) -> list[Path]:
    if not (checkpoint / TOKENIZER_FILES[0]).is_file():
        raise UserError(
            f"{checkpoint / TOKENIZER_FILES[0]} is missing: without it no text becomes tokens. Fetch the whole checkpoint, "
            "or save its tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))."
        )
    return [checkpoint / name for name in TOKENIZER_FILES if (checkpoint / name).is_file()]


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def _sync(folder: Path) -> None:
    for path in sorted(folder.rglob("*")):
        _sync_one(path)
    _sync_one(folder)


def _sync_one(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def plan(arguments: argparse.Namespace) -> Repository:
    """Raises UserError where the weights are not what the command line says."""
    weights = WeightsFolder.read(arguments.weights_dir)
    ranks = arguments.tensor_parallel_size
    if ranks is not None and ranks != weights.ranks:
        raise UserError(
            f"{arguments.weights_dir / CONFIG_NAME} has tensor_para_size {weights.ranks}, and --tensor-parallel-size is {ranks}. "
            "Convert for the same number."
        )
    return Repository(
        weights=weights,
        checkpoint_dir=arguments.checkpoint_dir,
        output_dir=arguments.output_dir.absolute(),
        backend=arguments.backend,
        data_type=arguments.data_type or weights.data_type,
        pipeline_parallel_size=arguments.pipeline_parallel_size,
        served_path=arguments.served_path,
    )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="engine_jobs.fastertransformer.repository", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--weights-dir", type=Path, required=True, metavar="DIR", help="what convert wrote: …/<N>-gpu")
    parser.add_argument(
        "--checkpoint-dir", type=Path, required=True, metavar="DIR", help="where the tokenizer's files are"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="the model repository to make")
    parser.add_argument("--backend", choices=(FASTER_TRANSFORMER, CPU_STAND_IN), default=FASTER_TRANSFORMER)
    parser.add_argument("--data-type", choices=tuple(ITEM_SIZES), help="type to compute in; the weights' by default")
    parser.add_argument("--tensor-parallel-size", type=int, metavar="N", help="must be the weights'")
    parser.add_argument(
        "--pipeline-parallel-size", type=int, default=1, metavar="N", help="stages of layers; 1 by default"
    )
    parser.add_argument(
        "--served-path", default=SERVED_PATH, help="of the version folder where Triton runs: %(default)s"
    )
    write(plan(parser.parse_args(argv)))


if __name__ == "__main__":
    errors.run(main)
