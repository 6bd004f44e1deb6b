"""`python -m engine_jobs.torchserve_accelerate.archive`: makes a TorchServe model archive and its server's configuration.

    <output-dir>/model-store/<name>.mar        model.zip, setup_config.json, requirements.txt, the handler
    <output-dir>/config/config.properties

model.zip has the checkpoint's files at its root, where the handler looks for them. It and the archive are zips without
compression: weights are noise, deflating 14 GB of them takes many minutes of a core and inflating as many at each start, for a
few percent. Nothing is held in memory; the disk needs three times the checkpoint beside it, as torch-model-archiver copies
what it archives. Written beside its final name, then renamed.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import zipfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from engine_jobs.durable import complete, full_disk_named, only_one, print_line
from engine_jobs.errors import UserError, run
from engine_jobs.progress import bytes_reported, size_of
from engine_jobs.torchserve_accelerate.configuration import (
    CONFIG_PROPERTIES,
    MODEL_CONFIG,
    MODEL_STORE,
    MODEL_ZIP,
    REQUIREMENTS,
    SETUP_CONFIG,
    ServerConfig,
    archived_texts,
    config_properties,
)

HANDLER = Path(__file__).with_name("accelerate_handler.py")
ARCHIVER = "torch-model-archiver"
ZIP_DATE = (1980, 1, 1, 0, 0, 0)
"""One date for every file, so that the same checkpoint makes the same bytes."""

CHUNK_BYTES = 8 << 20
TOKENIZERS = ("tokenizer.json", "tokenizer.model", "spiece.model", "vocab.json", "vocab.txt")
INDEXES = ("model.safetensors.index.json", "pytorch_model.bin.index.json")


@dataclass(frozen=True, kw_only=True)
class Archive:
    """What to make: of which checkpoint, where, for which server."""

    checkpoint: Path
    output: Path
    server: ServerConfig
    setup_config: Mapping[str, Any]
    requirements: tuple[str, ...]

    @property
    def texts(self) -> dict[str, str]:
        return archived_texts(self.server, self.setup_config, self.requirements)


def checkpoint_files(checkpoint: Path) -> list[Path]:
    """The checkpoint's files, by name. Raises UserError for one that can't be served: each lacking part, and what to do."""
    files = sorted(path for path in checkpoint.glob("*") if path.is_file() and not path.name.startswith("."))
    names = {path.name for path in files}
    again = "Fetch the whole checkpoint."
    if "config.json" not in names:
        raise UserError(f"{checkpoint} has no config.json, so it is no checkpoint. {again}")
    if not names.intersection(TOKENIZERS):
        raise UserError(f"{checkpoint} has no tokenizer (one of {', '.join(TOKENIZERS)}). {again}")
    if not any(name.endswith((".safetensors", ".bin")) for name in names):
        raise UserError(f"{checkpoint} has no weights (*.safetensors or *.bin). {again}")
    for index in sorted(names.intersection(INDEXES)):
        try:
            shards = set(json.loads((checkpoint / index).read_text(encoding="utf-8"))["weight_map"].values())
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{checkpoint / index} is no index of weights ({error!r}). {again}") from error
        if missing := sorted(map(str, shards - names)):
            raise UserError(f"{checkpoint} lacks {missing[0]}, which {index} names. {again}")
    return files


def write_model_zip(files: Sequence[Path], target: Path) -> None:
    """Each file at the root, not compressed, by pieces."""
    with zipfile.ZipFile(target, "w", zipfile.ZIP_STORED, allowZip64=True) as archive:
        for file in files:
            entry = zipfile.ZipInfo(file.name, ZIP_DATE)
            entry.external_attr = 0o644 << 16
            entry.file_size = file.stat().st_size  # says beforehand whether the entry needs 64-bit sizes
            with file.open("rb") as source, archive.open(entry, "w") as stream:
                shutil.copyfileobj(source, stream, CHUNK_BYTES)


def write(archive: Archive) -> None:
    """Makes the archive unless it is there. Raises UserError; leaves nothing half-written under its name."""
    with only_one(archive.output), full_disk_named(archive.output.parent):
        if archive.output.exists():
            _check_same(archive)
            print_line(f"{archive.output} is complete, nothing to do")
            return
        files = checkpoint_files(archive.checkpoint)
        partial = archive.output.with_name(f".{archive.output.name}.partial")
        scratch = archive.output.with_name(f".{archive.output.name}.scratch")
        for folder in (partial, scratch):
            shutil.rmtree(folder, ignore_errors=True)
        try:
            _write(archive, files, partial, scratch)
            complete(partial, archive.output)
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            shutil.rmtree(partial, ignore_errors=True)
    print_line(f"wrote {archive.output}: {archive.server.archive} and {CONFIG_PROPERTIES}")


def _write(archive: Archive, files: Sequence[Path], partial: Path, scratch: Path) -> None:
    store, temporary = partial / MODEL_STORE, scratch / "tmp"
    for folder in (store, (partial / CONFIG_PROPERTIES).parent, temporary):
        folder.mkdir(parents=True)
    size = sum(file.stat().st_size for file in files)
    print_line(f"{MODEL_ZIP}: {len(files)} files, {size} bytes")
    with bytes_reported(scratch, size):
        write_model_zip(files, scratch / MODEL_ZIP)
    for name, text in archive.texts.items():
        (scratch / name).write_text(text, encoding="utf-8")
    command = archiver_command(archive, scratch, store)
    print_line(" ".join(command))
    # Its working copy and then the archive itself.
    with bytes_reported(scratch.parent, size_of(scratch.parent) + 2 * size):
        _call(command, temporary)
    _check_members(partial / archive.server.archive, archive, scratch / MODEL_ZIP)
    (partial / CONFIG_PROPERTIES).write_text(config_properties(archive.server), encoding="utf-8")


def archiver_command(archive: Archive, scratch: Path, store: Path) -> list[str]:
    """torch-model-archiver's command line (0.12.0)."""
    command = [ARCHIVER, "--model-name", archive.server.model_name, "--version", archive.server.version]
    command += ["--handler", str(HANDLER), "--extra-files", f"{scratch / MODEL_ZIP},{scratch / SETUP_CONFIG}"]
    command += ["-r", str(scratch / REQUIREMENTS)]
    if MODEL_CONFIG in archive.texts:
        command += ["--config-file", str(scratch / MODEL_CONFIG)]
    return [*command, "--archive-format", "zip-store", "--export-path", str(store)]


def _call(command: Sequence[str], temporary: Path) -> None:
    try:
        done = subprocess.run(
            command,
            env={**os.environ, "TMPDIR": str(temporary)},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            errors="replace",
            check=False,
        )
    except FileNotFoundError as error:
        raise UserError(f"{command[0]} is not on PATH: run this in the image torch-model-archiver") from error
    if done.returncode:
        tail = "\n".join(done.stdout.strip().splitlines()[-15:])
        raise UserError(f"{command[0]} failed with exit code {done.returncode}:\n{tail}")


def _check_members(mar: Path, archive: Archive, model_zip: Path) -> None:
    """Raises UserError where the archiver left out or cut short what the handler needs."""
    wanted = {HANDLER.name: HANDLER.stat().st_size, MODEL_ZIP: model_zip.stat().st_size}
    wanted |= {name: len(text.encode()) for name, text in archive.texts.items()}
    with zipfile.ZipFile(mar) as members:
        found = {member.filename: member.file_size for member in members.infolist()}
    wrong = sorted(name for name, size in wanted.items() if found.get(name) != size)
    if wrong or "MAR-INF/MANIFEST.json" not in found:
        raise UserError(f"{ARCHIVER} wrote {mar.name} without {', '.join(wrong) or 'its manifest'}: run it again")


def _check_same(archive: Archive) -> None:
    """Raises UserError when what is there was made with other settings."""
    try:
        same = (archive.output / CONFIG_PROPERTIES).read_text(encoding="utf-8") == config_properties(archive.server)
        with zipfile.ZipFile(archive.output / archive.server.archive) as members:
            texts = {**archive.texts, HANDLER.name: HANDLER.read_text(encoding="utf-8")}
            same = same and all(members.read(name).decode() == text for name, text in texts.items())
    except (FileNotFoundError, KeyError, zipfile.BadZipFile):
        same = False
    if not same:
        raise UserError(
            f"{archive.output} exists and was made with other settings. Move it away, or choose another --output-dir."
        )


def plan(arguments: argparse.Namespace) -> Archive:
    """Raises UserError for arguments that contradict each other or can't be."""
    try:
        setup_config = json.loads(arguments.setup_config)
    except ValueError as error:
        raise UserError(f"--setup-config is not JSON: {error}") from error
    if not isinstance(setup_config, dict) or "max_length" not in setup_config:
        raise UserError(
            '--setup-config must be a JSON object with max_length, such as {"device_map":"auto","max_length":80}'
        )
    if not re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_.-]*", arguments.model_name):
        raise UserError(
            f"--model-name {arguments.model_name!r}: letters, digits, '-', '_' and '.', as TorchServe has it"
        )
    server = ServerConfig(**{field.name: getattr(arguments, field.name) for field in fields(ServerConfig)})
    return Archive(
        checkpoint=arguments.checkpoint_dir,
        output=arguments.output_dir.absolute(),
        server=server,
        setup_config=setup_config,
        requirements=tuple(arguments.requirement),
    )


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.torchserve_accelerate.archive",
        description="Makes a TorchServe model archive of a checkpoint, and the server's configuration.",
    )
    default = ServerConfig(model_name="", version="")
    parser.add_argument("--checkpoint-dir", type=Path, required=True, metavar="DIR", help="a checkpoint as fetched")
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="what to make")
    parser.add_argument("--model-name", required=True, help="the archive's name, and the model's in URLs")
    parser.add_argument("--version", required=True, help="the model's version, such as 1.0")
    parser.add_argument(
        "--setup-config", required=True, metavar="JSON", help="how Accelerate loads it: setup_config.json"
    )
    parser.add_argument(
        "--requirement", action="append", default=[], help="a line of requirements.txt; may be repeated"
    )
    for name in (f.name for f in fields(ServerConfig) if f.type is int):
        flag, value = f"--{name.replace('_', '-')}", getattr(default, name)
        parser.add_argument(flag, type=int, default=value, metavar="N", help="config.properties (default: %(default)s)")
    parser.add_argument("--vmargs", default=default.vmargs, help="Java's options (default: %(default)s)")
    parser.add_argument(
        "--install-py-dep-per-model", action="store_true", help="TorchServe installs the requirements when it starts"
    )
    write(plan(parser.parse_args(argv)))


if __name__ == "__main__":
    run(main)
