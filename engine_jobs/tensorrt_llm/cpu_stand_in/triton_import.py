"""`triton import -m NAME [-s hf:MODEL] --backend tensorrtllm`: the CPU stand-in of triton_cli 0.1.3's one command that builds.

As the real one it builds with the builder's defaults (there are no build flags), puts engine and tokenizer into
$ENGINE_DEST_PATH/NAME (default /tmp/engines), uses an engine that it finds there, and writes into --repo (default ~/models)
the models preprocessing, postprocessing, tensorrt_llm and NAME, which is the BLS: decoupled, and without an ensemble.
`hf:` takes a model of the Hub, or a folder (as the LLM API that the real one calls does).
"""

import argparse
import os
import shutil
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Final

import engine_jobs
from engine_jobs.durable import print_line
from engine_jobs.errors import UserError, run
from engine_jobs.fetch import fetch
from engine_jobs.resolve import HubModelRevision
from engine_jobs.tensorrt_llm import repository_models
from engine_jobs.tensorrt_llm.cpu_stand_in import version_files
from engine_jobs.tensorrt_llm.cpu_stand_in.checkpoint import Mapping2D, read_json
from engine_jobs.tensorrt_llm.cpu_stand_in.command_flags import STAND_IN, stood_in_version
from engine_jobs.tensorrt_llm.cpu_stand_in.convert_checkpoint import convert
from engine_jobs.tensorrt_llm.cpu_stand_in.folders import CONFIG
from engine_jobs.tensorrt_llm.cpu_stand_in.trtllm_build import build
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN, SERVED_DIR, model_config_texts
from engine_jobs.tensorrt_llm.versions import releases, same_version

KNOWN_SOURCES: Final = {
    "llama-2-7b": "hf:meta-llama/Llama-2-7b-hf",
    "llama-2-7b-chat": "hf:meta-llama/Llama-2-7b-chat-hf",
    "llama-3-8b": "hf:meta-llama/Meta-Llama-3-8B",
    "llama-3-8b-instruct": "hf:meta-llama/Meta-Llama-3-8B-Instruct",
    "llama-3.1-8b": "hf:meta-llama/Meta-Llama-3.1-8B",
    "llama-3.1-8b-instruct": "hf:meta-llama/Meta-Llama-3.1-8B-Instruct",
}
"""Those of triton_cli 0.1.3 (src/triton_cli/parser.py) that are Llamas."""

TOKENIZER_FILES: Final = ("tokenizer.json", "tokenizer.model", "tokenizer_config.json", "special_tokens_map.json")
BLS: Final = "tensorrt_llm_bls"


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="triton", description=f"{STAND_IN}: triton_cli's `import` alone.")
    commands = parser.add_subparsers(required=True, metavar="import")
    importing = commands.add_parser("import", help="Import model to model repository")
    importing.add_argument("-m", "--model", required=True, help="name to assign to the model in the repository")
    importing.add_argument("-s", "--source", help="hf:MODEL on the Hub, or hf:FOLDER")
    importing.add_argument("--backend", help="tensorrtllm")
    importing.add_argument("-v", "--verbose", action="store_true")
    importing.add_argument(
        *("--repo", "--model-repository", "--model-store"),
        dest="repository",
        type=Path,
        default=Path.home() / "models",
        metavar="DIR",
        help="model repository (default: ~/models)",
    )
    arguments = parser.parse_args(argv)
    if arguments.backend != "tensorrtllm":
        raise UserError(f"--backend {arguments.backend}: the CPU stand-in imports for tensorrtllm alone.")
    import_model(arguments.model, arguments.source, arguments.repository)


def import_model(name: str, source: str | None, repository: Path) -> None:
    """Raises UserError, before it touches the repository; no engine is left half-written."""
    source = source or KNOWN_SOURCES.get(name)
    if source is None:
        raise UserError(
            f"No known source for model {name!r}. Name one with --source; known: {', '.join(KNOWN_SOURCES)}."
        )
    kind, _, model = source.partition(":")
    if kind != "hf" or not model:
        raise UserError(f"--source {source}: an engine is built for hf: sources alone; write hf:MODEL or hf:FOLDER.")
    if (repository / name).exists():
        raise UserError(f"Found existing model at {repository / name}, skipping repo add. Remove it, or name another.")
    engine = Path(os.environ.get("ENGINE_DEST_PATH", "/tmp/engines")) / name
    if any(engine.glob("*.engine")):
        print_line(f"triton - WARNING - Found existing engine(s) at {engine}, skipping build.")
    else:
        _build(model, engine)
    _write_models(name, engine, repository)
    print_line(f"triton - INFO - Current repo at {repository}:")
    print_line("\n".join([f"{repository.name}/", *_tree(repository)]))


def _build(model: str, engine: Path) -> None:
    with tempfile.TemporaryDirectory(prefix="triton-import-") as scratch:
        checkpoint = Path(model)
        if not checkpoint.is_dir():
            checkpoint = Path(scratch) / "model"
            fetch(HubModelRevision(model=model, revision="main", endpoint=None), checkpoint)
        tokenizer = [checkpoint / each for each in TOKENIZER_FILES if (checkpoint / each).is_file()]
        if not tokenizer:
            raise UserError(
                f"{checkpoint} has no tokenizer ({', '.join(TOKENIZER_FILES)}); the served models need one."
            )
        converted = Path(scratch) / "checkpoint"
        convert(checkpoint, converted, "auto", Mapping2D(tp=1, pp=1))
        build(converted, engine, {}, beside=tokenizer)


def _write_models(name: str, engine: Path, repository: Path) -> None:
    batch = read_json(engine / CONFIG, "an engine folder")["build_config"]["max_batch_size"]
    serving = {"triton_max_batch_size": batch, "decoupled_mode": True, "exclude_input_in_output": True}
    texts = model_config_texts(serving, _described_version(), CPU_STAND_IN)
    files = {model: repository_models.version_files(model) for model in repository_models.FILES}
    files["tensorrt_llm"] = version_files()
    root = Path(engine_jobs.__file__).resolve().parents[1]
    for model, sources in files.items():
        folder = repository / (name if model == BLS else model)
        shutil.rmtree(folder, ignore_errors=True)
        for target, path in sources.items():
            (folder / "1" / target).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(root / path, folder / "1" / target)
        text = (
            texts[model].replace(f"{SERVED_DIR}/engines", str(engine)).replace(f"{SERVED_DIR}/tokenizer", str(engine))
        )
        (folder / "config.pbtxt").write_text(text.replace(f'name: "{BLS}"', f'name: "{name}"', 1), encoding="utf-8")


def _described_version() -> str:
    version = stood_in_version()
    for release in releases().values():
        if same_version(release.tensorrt_llm, version):
            return release.described
    raise UserError(f"the templates of TensorRT-LLM {version} are not described here.")


def _tree(folder: Path, indent: str = "") -> list[str]:
    """The folder's files as the real command shows them, but for the packages that came along with a model.py."""
    entries = sorted(path for path in folder.iterdir() if path.name != "engine_jobs")
    lines = []
    for entry in entries:
        last = entry == entries[-1]
        lines.append(f"{indent}{'└── ' if last else '├── '}{entry.name}{'/' if entry.is_dir() else ''}")
        if entry.is_dir():
            lines += _tree(entry, indent + ("    " if last else "│   "))
    return lines


if __name__ == "__main__":
    run(main)
