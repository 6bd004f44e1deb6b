"""Assembles what Triton serves of a built engine.

    <output-dir>/model_repository/{preprocessing,postprocessing,tensorrt_llm_bls}/{config.pbtxt,1/model.py,1/engine_jobs/…}
    <output-dir>/model_repository/tensorrt_llm/{config.pbtxt,1/}       with model.py and what it imports for the CPU stand-in
    <output-dir>/model_repository/ensemble/{config.pbtxt,1/}
    <output-dir>/engines/{config.json,rank<N>.engine,…}                hard links where the file system allows, else copies
    <output-dir>/tokenizer/{tokenizer.json,tokenizer_config.json,…}
    <output-dir>/run_triton.sh

A version folder without a file holds about.txt: an object store keeps no empty folder, and Triton needs it. Written beside its
final name, then renamed.
"""

import argparse
import json
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import engine_jobs
from engine_jobs.durable import complete, full_disk_named, only_one, print_line
from engine_jobs.errors import UserError, run
from engine_jobs.tensorrt_llm import cpu_stand_in, flags, repository_models
from engine_jobs.tensorrt_llm.engine_folder import check_engine
from engine_jobs.tensorrt_llm.flags import FlagValue
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN, REPOSITORY, SERVED_DIR, TENSORRT_LLM
from engine_jobs.tensorrt_llm.repository_files import repository_files
from engine_jobs.tensorrt_llm.versions import Release, pinned_release, releases

ROOT: Final = Path(engine_jobs.__file__).resolve().parents[1]

VOCABULARIES: Final = ("tokenizer.json", "tokenizer.model", "vocab.json")
TOKENIZER_FILES: Final = (
    *VOCABULARIES,
    *("merges.txt", "tokenizer_config.json", "special_tokens_map.json", "added_tokens.json"),
    *("chat_template.jinja", "config.json", "generation_config.json"),
)
"""A checkpoint's files that transformers and tokenizers read a tokenizer from; config.json names its class in older checkpoints."""

ABOUT: Final = "about.txt"
ABOUT_TEXT: Final = "Triton wants a version folder, and this model needs nothing in it.\n"


@dataclass(frozen=True, kw_only=True)
class Repository:
    """What to assemble, and from what. `serving`: template variables."""

    engine_dir: Path
    checkpoint_dir: Path
    output_dir: Path
    release: Release
    backend: str
    serving: Mapping[str, FlagValue]
    tensor_parallel: int
    pipeline_parallel: int
    served_dir: str

    def texts(self) -> dict[str, str]:
        world_size = self.tensor_parallel * self.pipeline_parallel
        return repository_files(self.serving, self.release, self.backend, world_size, self.served_dir)

    def sources(self) -> dict[str, Path]:
        """The file that each further file of the artifact is a copy of, by its path there. Raises UserError without a tokenizer."""
        files = {f"engines/{file.name}": file for file in sorted(self.engine_dir.iterdir()) if file.is_file()}
        files |= {f"tokenizer/{file.name}": file for file in tokenizer_files(self.checkpoint_dir)}
        for model in repository_models.FILES:
            files |= _version_files(model, repository_models.version_files(model))
        if self.backend == CPU_STAND_IN:
            files |= _version_files("tensorrt_llm", cpu_stand_in.version_files())
        return files


def write(repository: Repository) -> None:
    """Writes the folder unless it is there already. Raises UserError; leaves nothing half-written under its name."""
    flags.check("serving", repository.serving, repository.release)
    check_engine(
        repository.engine_dir,
        repository.release.tensorrt_llm,
        repository.tensor_parallel,
        repository.pipeline_parallel,
    )
    texts, sources = repository.texts(), repository.sources()
    output = repository.output_dir
    with only_one(output), full_disk_named(output.parent):
        if output.exists():
            _check_same(output, texts, sources)
            print_line(f"{output} is complete, nothing to do")
            return
        partial = output.with_name(f".{output.name}.partial")
        shutil.rmtree(partial, ignore_errors=True)
        try:
            _fill(partial, texts, sources)
            complete(partial, output)
        finally:
            shutil.rmtree(partial, ignore_errors=True)
    print_line(f"wrote {output}: TensorRT-LLM {repository.release.tensorrt_llm}, backend {repository.backend}")


def tokenizer_files(checkpoint: Path) -> list[Path]:
    """Raises UserError where the checkpoint has no vocabulary."""
    if not any((checkpoint / name).is_file() for name in VOCABULARIES):
        raise UserError(
            f"{checkpoint} has no tokenizer ({', '.join(VOCABULARIES)}): without one no text becomes tokens. Fetch the whole checkpoint, "
            "or save its tokenizer there (AutoTokenizer.from_pretrained(…).save_pretrained(…))."
        )
    return [checkpoint / name for name in TOKENIZER_FILES if (checkpoint / name).is_file()]


def _version_files(model: str, files: Mapping[str, str]) -> dict[str, Path]:
    return {f"{REPOSITORY}/{model}/1/{path}": ROOT / source for path, source in files.items()}


def _fill(folder: Path, texts: Mapping[str, str], sources: Mapping[str, Path]) -> None:
    for path, text in texts.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text, encoding="utf-8")
        if file.suffix == ".sh":
            file.chmod(0o755)
    for path, source in sources.items():
        file = folder / path
        file.parent.mkdir(parents=True, exist_ok=True)
        _link_or_copy(source, file)
    for model in (folder / REPOSITORY).iterdir():
        version = model / "1"
        if not version.is_dir():
            version.mkdir()
            (version / ABOUT).write_text(ABOUT_TEXT, encoding="utf-8")


def _check_same(folder: Path, texts: Mapping[str, str], sources: Mapping[str, Path]) -> None:
    """Raises UserError when the folder that is there was made from something else. Engines are compared by size: they are large."""
    try:
        same = all((folder / path).read_text(encoding="utf-8") == text for path, text in texts.items())
        for path, source in sources.items():
            file = folder / path
            same = same and file.stat().st_size == source.stat().st_size
            same = same and (path.startswith("engines/rank") or file.read_bytes() == source.read_bytes())
    except FileNotFoundError:
        same = False
    if not same:
        raise UserError(
            f"{folder} exists and was made from other files or settings. Move it away, or name another --output-dir."
        )


def _link_or_copy(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source.resolve())
    except OSError:
        shutil.copyfile(source, target)


def _serving(text: str) -> dict[str, FlagValue]:
    try:
        content = json.loads(text)
    except ValueError as error:
        raise UserError(f"--serving is not JSON: {error}") from error
    if not isinstance(content, dict):
        raise UserError("--serving is not a JSON object of template variables")
    return {name: tuple(value) if isinstance(value, list) else value for name, value in content.items()}


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.tensorrt_llm.repository", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--engine-dir", type=Path, required=True, metavar="DIR", help="what trtllm-build wrote")
    parser.add_argument(
        "--checkpoint-dir", type=Path, required=True, metavar="DIR", help="where the tokenizer's files are"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--triton-version", required=True, choices=tuple(releases()), metavar="YY.MM")
    parser.add_argument("--backend", choices=(TENSORRT_LLM, CPU_STAND_IN), default=TENSORRT_LLM)
    parser.add_argument("--serving", default="{}", metavar="JSON", help="template variables by name")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument("--pipeline-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument(
        "--served-dir", default=SERVED_DIR, metavar="DIR", help="the folder where Triton runs: %(default)s"
    )
    arguments = parser.parse_args(argv)
    write(
        Repository(
            engine_dir=arguments.engine_dir,
            checkpoint_dir=arguments.checkpoint_dir,
            output_dir=arguments.output_dir.absolute(),
            release=pinned_release(arguments.triton_version, None),
            backend=arguments.backend,
            serving=_serving(arguments.serving),
            tensor_parallel=arguments.tensor_parallel_size,
            pipeline_parallel=arguments.pipeline_parallel_size,
            served_dir=arguments.served_dir,
        )
    )


if __name__ == "__main__":
    run(main)
