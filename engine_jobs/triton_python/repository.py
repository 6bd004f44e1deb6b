"""Writes the Triton model repository of one or more Hugging Face checkpoints for the Python backend.

    <output-dir>/<name>/{config.pbtxt,1/model.py,1/engine_jobs/…}            the front: `infer` and `generate`
    <output-dir>/<name>_stream/{config.pbtxt,1/model.py,1/engine_jobs/…}     the engine: `generate_stream`
    <output-dir>/<name>_stream/1/checkpoint/…    hard links to the fetched files where the file system allows, else copies

Written beside its final name, then renamed.
"""

import argparse
import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from engine_jobs import errors
from engine_jobs.durable import complete, full_disk_named, only_one, print_line
from engine_jobs.errors import UserError
from engine_jobs.triton_python.model_config import CHECKPOINT, VERSION, DynamicBatching, ServedModel, config_texts

PACKAGE: Final = Path(errors.__file__).resolve().parent
SERVED: Final = PACKAGE / "triton_python" / "served"
TOKENIZERS: Final = (
    "tokenizer.json",
    "tokenizer.model",
    "spiece.model",
    "vocab.json",
    "vocab.txt",
    "tokenizer_config.json",
)


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What to write: each model with the folder of its checkpoint."""

    models: tuple[tuple[ServedModel, Path], ...]
    output_dir: Path


def write(repository: Repository) -> None:
    """Writes the repository unless it is there already. Raises UserError; leaves nothing half-written under its name."""
    final = repository.output_dir
    files = dict(_files(repository))
    with only_one(final), full_disk_named(final.parent):
        if final.exists():
            _check_same(final, files)
            print_line(f"{final} is complete, nothing to do")
            return
        partial = final.with_name(f".{final.name}.partial")
        if partial.exists():
            shutil.rmtree(partial)
        try:
            for name, content in files.items():
                target = partial / name
                target.parent.mkdir(parents=True, exist_ok=True)
                if isinstance(content, str):
                    target.write_text(content, encoding="utf-8")
                else:
                    _link_or_copy(content, target)
            complete(partial, final)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print_line(f"wrote {final}: {', '.join(model.name for model, _ in repository.models)}")


def _files(repository: Repository) -> Iterator[tuple[str, str | Path]]:
    """Every file by its path in the repository: its text, or where it comes from."""
    code = code_files()
    for model, checkpoint in repository.models:
        models = {model.name: SERVED / "front_model.py", model.engine: SERVED / "engine_model.py"}
        for name, text in config_texts(model).items():
            yield f"{name}/config.pbtxt", text
            yield f"{name}/{VERSION}/model.py", models[name]
            yield from ((f"{name}/{VERSION}/{path}", file) for path, file in code.items())
        for file in _checkpoint_files(checkpoint):
            yield f"{model.engine}/{VERSION}/{CHECKPOINT}/{file.name}", file


def code_files() -> dict[str, Path]:
    """What the two model.py import, by its path in a version folder: it travels with the model, not with Triton's image."""
    found = [PACKAGE / "__init__.py", PACKAGE / "errors.py", SERVED.parent / "__init__.py"]
    found += [path for path in sorted(SERVED.glob("*.py")) if path.name not in ("front_model.py", "engine_model.py")]
    return {path.relative_to(PACKAGE.parent).as_posix(): path for path in found}


def _checkpoint_files(folder: Path) -> list[Path]:
    """A checkpoint's files. Raises UserError where its configuration or its tokenizer is missing."""
    if not (folder / "config.json").is_file():
        raise UserError(f"{folder / 'config.json'} is missing: fetch the checkpoint to that folder first")
    if not any((folder / name).is_file() for name in TOKENIZERS):
        raise UserError(
            f"{folder} has no tokenizer (none of {', '.join(TOKENIZERS)}): without it no text becomes tokens. Fetch the whole "
            "checkpoint, or save its tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))."
        )
    return [path for path in sorted(folder.iterdir()) if path.is_file() and not path.name.startswith(".")]


def _check_same(final: Path, files: Mapping[str, str | Path]) -> None:
    """Raises UserError when the repository that is there was made from something else."""
    for name, content in files.items():
        path = final / name
        if isinstance(content, str):
            same = path.is_file() and path.read_text(encoding="utf-8") == content
        else:
            same = path.is_file() and (path.samefile(content) or _same_bytes(path, content))
        if not same:
            raise UserError(
                f"{final} exists and was made from other files or settings ({name} differs). Move it away, or choose another "
                "--output-dir."
            )


def _same_bytes(one: Path, other: Path) -> bool:
    if one.stat().st_size != other.stat().st_size:
        return False
    with one.open("rb") as left, other.open("rb") as right:
        while chunk := left.read(2**20):
            if chunk != right.read(2**20):
                return False
    return True


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def read_models(text: str) -> list[ServedModel]:
    """The inverse of `models_text`. Raises UserError."""
    try:
        return [_read_model(each) for each in json.loads(text)]
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(f"--models: not what the recipe writes there: {type(error).__name__}: {error}") from None


def _read_model(content: Mapping[str, Any]) -> ServedModel:
    batching = content["dynamicBatching"]
    return ServedModel(
        name=content["name"],
        output_tensor=content["outputTensor"],
        instances=content["instances"],
        max_batch_size=content["maxBatchSize"],
        dynamic_batching=None
        if batching is None
        else DynamicBatching(
            max_queue_delay_microseconds=batching["maxQueueDelayMicroseconds"],
            preferred_batch_sizes=tuple(batching["preferredBatchSizes"]),
        ),
        gpu=content["gpu"],
        parameters=content["parameters"],
    )


def plan(arguments: argparse.Namespace) -> Repository:
    """Raises UserError where models and checkpoints don't belong together."""
    models = read_models(arguments.models)
    folders: dict[str, Path] = {}
    for text in arguments.checkpoint:
        name, separator, folder = text.partition("=")
        if not separator:
            raise UserError(f"--checkpoint {text}: write NAME=FOLDER")
        folders[name] = Path(folder)
    if missing := {model.name for model in models} ^ set(folders):
        raise UserError(f"--models and --checkpoint don't name the same models: {', '.join(sorted(missing))}")
    return Repository(
        models=tuple((model, folders[model.name]) for model in models), output_dir=arguments.output_dir.absolute()
    )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="engine_jobs.triton_python.repository", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument(
        "--models", required=True, metavar="JSON", help="what to serve and how, as the recipe writes it"
    )
    parser.add_argument(
        "--checkpoint", action="append", required=True, metavar="NAME=DIR", help="where a model's checkpoint is; repeat"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="the model repository to make")
    write(plan(parser.parse_args(argv)))


if __name__ == "__main__":
    errors.run(main)
