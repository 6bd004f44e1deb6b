"""`python -m engine_jobs.triton_cli.import_model … -- triton import …`: runs the command, and believes in the engine alone.

Triton CLI builds in a child process whose exit code it does not look at. So what was left half-made by a run before is taken
away, and what this run made is checked: the engine, of the pinned version, with its tokenizer.
"""

import argparse
import os
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.durable import full_disk_named, print_line
from engine_jobs.errors import UserError, run
from engine_jobs.tensorrt_llm.engine_folder import check_engine
from engine_jobs.triton_cli.imported import ENGINE_DEST_PATH, OTHERS

TOKENIZERS = ("tokenizer.json", "tokenizer.model", "vocab.json")


def import_model(command: Sequence[str], name: str, engines: Path, repository: Path, version: str) -> None:
    """Raises UserError where the command fails, or leaves no engine of `version`, no tokenizer, or not the models."""
    engine = engines / name
    shutil.rmtree(repository, ignore_errors=True)
    if engine.exists() and (problem := _problem(engine, version)):
        print_line(f"{engine} was left by another run ({problem}): taken away")
        shutil.rmtree(engine)
    engines.mkdir(parents=True, exist_ok=True)
    with full_disk_named(engines):
        print_line(f"{ENGINE_DEST_PATH}={engines} {' '.join(command)}")
        try:
            code = subprocess.run(
                command, env=os.environ | {ENGINE_DEST_PATH: str(engines)}, stdin=subprocess.DEVNULL, check=False
            ).returncode
        except FileNotFoundError as error:
            raise UserError(f"{command[0]} is not installed here: run this in an image with Triton CLI") from error
    problem = _problem(engine, version)
    if code or problem:
        what = problem or f"its engine in {engine} is whole"
        raise UserError(f"`{' '.join(command[:2])}` ended with code {code}, and {what}; its own words above say why")
    missing = [model for model in (*OTHERS, name) if not (repository / model).is_dir()]
    if missing:
        raise UserError(f"{repository}: {', '.join(missing)} missing: this is not the Triton CLI that is pinned")
    print_line(f"{engine}: an engine of TensorRT-LLM {version}, complete, with its tokenizer")


def _problem(engine: Path, version: str) -> str | None:
    try:
        check_engine(engine, version, 1, 1)
    except UserError as error:
        return str(error)
    if not any((engine / file).is_file() for file in TOKENIZERS):
        return f"{engine} has no tokenizer ({', '.join(TOKENIZERS)})"
    return None


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.triton_cli.import_model",
        usage="%(prog)s --name NAME --engines-dir DIR --repository-dir DIR --tensorrt-llm-version VERSION -- triton import …",
        description=(__doc__ or "").split(": ", 1)[1].split("\n")[0],
    )
    parser.add_argument("--name", required=True, help="what triton import calls the model (-m)")
    parser.add_argument(
        "--engines-dir", type=Path, required=True, metavar="DIR", help=f"{ENGINE_DEST_PATH} for the command"
    )
    parser.add_argument(
        "--repository-dir", type=Path, required=True, metavar="DIR", help="where the command writes (--repo)"
    )
    parser.add_argument("--tensorrt-llm-version", required=True, metavar="VERSION", help="of the image that serves")
    place = list(argv).index("--") if "--" in argv else len(argv)
    arguments, command = parser.parse_args(argv[:place]), list(argv[place + 1 :])
    if not command:
        parser.error("no command given: put it after --")
    import_model(
        command, arguments.name, arguments.engines_dir, arguments.repository_dir, arguments.tensorrt_llm_version
    )


if __name__ == "__main__":
    run(main)
