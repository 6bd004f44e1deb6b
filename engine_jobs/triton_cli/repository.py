"""`python -m engine_jobs.triton_cli.repository`: what is served of an engine that `triton import` built: the import's four models."""

import argparse
import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError, run
from engine_jobs.tensorrt_llm import repository
from engine_jobs.tensorrt_llm.model_configs import CPU_STAND_IN, SERVED_DIR, TENSORRT_LLM
from engine_jobs.tensorrt_llm.versions import pinned_release
from engine_jobs.triton_cli.imported import imported_paths, imported_texts, triton_releases


@dataclass(frozen=True, kw_only=True)
class ImportedRepository(repository.Repository):
    """`name`: that of the BLS model."""

    name: str

    def texts(self) -> dict[str, str]:
        return imported_texts(super().texts(), self.name)

    def sources(self) -> dict[str, Path]:
        return imported_paths(super().sources(), self.name)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.triton_cli.repository", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument("--name", required=True, help="what triton import calls the model (-m)")
    parser.add_argument("--engine-dir", type=Path, required=True, metavar="DIR", help="$ENGINE_DEST_PATH/NAME")
    parser.add_argument(
        "--checkpoint-dir", type=Path, required=True, metavar="DIR", help="where the tokenizer's files are"
    )
    parser.add_argument("--output-dir", type=Path, required=True, metavar="DIR", help="the folder to make")
    parser.add_argument("--triton-version", required=True, choices=triton_releases(), metavar="YY.MM")
    parser.add_argument("--backend", choices=(TENSORRT_LLM, CPU_STAND_IN), default=TENSORRT_LLM)
    parser.add_argument("--serving", default="{}", metavar="JSON", help="template variables by name")
    parser.add_argument(
        "--served-dir", default=SERVED_DIR, metavar="DIR", help="the folder where Triton runs: %(default)s"
    )
    arguments = parser.parse_args(argv)
    try:
        serving = json.loads(arguments.serving)
    except ValueError as error:
        raise UserError(f"--serving is not JSON: {error}") from error
    repository.write(
        ImportedRepository(
            name=arguments.name,
            engine_dir=arguments.engine_dir,
            checkpoint_dir=arguments.checkpoint_dir,
            output_dir=arguments.output_dir.absolute(),
            release=pinned_release(arguments.triton_version, None),
            backend=arguments.backend,
            serving={name: tuple(value) if isinstance(value, list) else value for name, value in serving.items()},
            tensor_parallel=1,
            pipeline_parallel=1,
            served_dir=arguments.served_dir,
        )
    )


if __name__ == "__main__":
    run(main)
