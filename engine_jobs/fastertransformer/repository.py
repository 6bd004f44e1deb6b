"""Writes the Triton model repository of a BLOOM that `convert` has made FasterTransformer weights of.

    <output-dir>/fastertransformer/config.pbtxt
    <output-dir>/fastertransformer/1/{config.ini,*.bin}       hard links where the file system allows, else copies
    <output-dir>/fastertransformer/1/tokenizer/tokenizer*.json …
    <output-dir>/fastertransformer/1/{model.py,engine_jobs/…} only for the CPU stand-in

Written beside its final name, then renamed.
"""

import argparse
import os
import shutil
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine_jobs import errors
from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.layout import CONFIG_NAME, ITEM_SIZES, WeightsFolder
from engine_jobs.fastertransformer.model_config import (
    CPU_STAND_IN,
    FASTER_TRANSFORMER,
    NAME,
    SERVED_PATH,
    VERSION,
    model_config_text,
)

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer_config.json", "special_tokens_map.json")

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

    def config(self) -> str:
        return model_config_text(
            backend=self.backend,
            data_type=self.data_type,
            tensor_parallel_size=self.weights.ranks,
            pipeline_parallel_size=self.pipeline_parallel_size,
            served_path=self.served_path,
        )


def write(repository: Repository) -> None:
    """Writes the repository unless it is there already. Raises UserError; leaves nothing half-written under its name."""
    repository.weights.check()
    tokenizer = _tokenizer_files(repository.checkpoint_dir)
    config = repository.config()
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
