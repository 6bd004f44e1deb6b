"""`python -m engine_jobs.tensorrt_llm.check_engine`: ends with an error unless the pinned image can serve the engine."""

import argparse
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.durable import print_line
from engine_jobs.errors import run
from engine_jobs.tensorrt_llm.engine_folder import check_engine


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.tensorrt_llm.check_engine", description=(__doc__ or "").split(": ", 1)[1]
    )
    parser.add_argument("--engine-dir", type=Path, required=True, metavar="DIR", help="what trtllm-build wrote")
    parser.add_argument("--tensorrt-llm-version", required=True, metavar="VERSION", help="of the image that serves")
    parser.add_argument("--tensor-parallel-size", type=int, default=1, metavar="N")
    parser.add_argument("--pipeline-parallel-size", type=int, default=1, metavar="N")
    arguments = parser.parse_args(argv)
    check_engine(
        arguments.engine_dir,
        arguments.tensorrt_llm_version,
        arguments.tensor_parallel_size,
        arguments.pipeline_parallel_size,
    )
    print_line(f"{arguments.engine_dir}: an engine of TensorRT-LLM {arguments.tensorrt_llm_version}, complete")


if __name__ == "__main__":
    run(main)
