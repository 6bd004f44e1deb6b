"""The KServe transformer of the FasterTransformer recipe: text in and out of a model that speaks token ids.

`python -m engine_jobs.fastertransformer.transformer --model_name fastertransformer --protocol v2 --tokenizer_path DIR
--predictor_host HOST[:PORT]` serves `POST /v1/models/NAME:predict`, the v2 health and metadata endpoints, and passes v2
inference with token ids through. KServe adds --predictor_host and --http_port.
"""

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from engine_jobs.errors import run
from engine_jobs.fastertransformer.completion import Limits, PromptTokenizer


@dataclass(frozen=True, kw_only=True)
class Options:
    """`protocol` is the one spoken to the predictor. Time in seconds."""

    model_name: str
    tokenizer_path: Path
    predictor_host: str
    protocol: Literal["v2", "grpc-v2"]
    use_ssl: bool
    request_timeout: int
    http_port: int
    limits: Limits


def parse_options(argv: Sequence[str]) -> Options:
    """The command line, in KServe's names. Arguments of KServe's own server (--workers …) are left to it."""
    parser = argparse.ArgumentParser(
        prog="python -m engine_jobs.fastertransformer.transformer",
        description=(__doc__ or "").partition("\n\n")[0],
        epilog="More arguments (--workers, --enable_grpc, --grpc_port, …) go to KServe's model server.",
        allow_abbrev=False,
    )
    parser.add_argument("--model_name", required=True, help="the model's name, here and in Triton")
    parser.add_argument("--tokenizer_path", required=True, type=Path, help="folder with tokenizer.json")
    parser.add_argument("--predictor_host", required=True, help="HOST or HOST:PORT of the predictor")
    parser.add_argument("--protocol", choices=("v2", "grpc-v2"), default="v2", help="spoken to the predictor")
    parser.add_argument("--predictor_protocol", choices=("v2", "grpc-v2"), help="the same, and beats --protocol")
    parser.add_argument("--predictor_use_ssl", choices=("true", "false"), default="false")
    parser.add_argument("--predictor_request_timeout_seconds", type=int, default=600)
    parser.add_argument("--http_port", type=int, default=8080)
    parser.add_argument("--max_output_len", type=int, default=1024, help="new tokens that an input may ask for")
    parser.add_argument("--max_input_len", type=int, default=2048, help="tokens that an input may have")
    parser.add_argument("--max_batch_size", type=int, default=64, help="inputs that one request may have")
    known, _ = parser.parse_known_args(argv)
    return Options(
        model_name=known.model_name,
        tokenizer_path=known.tokenizer_path,
        predictor_host=known.predictor_host,
        protocol=known.predictor_protocol or known.protocol,
        use_ssl=known.predictor_use_ssl == "true",
        request_timeout=known.predictor_request_timeout_seconds,
        http_port=known.http_port,
        limits=Limits(
            output_tokens=known.max_output_len, input_tokens=known.max_input_len, inputs=known.max_batch_size
        ),
    )


def main(argv: Sequence[str]) -> None:
    options = parse_options(argv)
    tokenizer = PromptTokenizer(options.tokenizer_path)
    # KServe's package takes seconds to load and reads the command line as it does: not before ours is known to be right.
    from engine_jobs.fastertransformer.kserve_model import serve

    serve(options, tokenizer)


if __name__ == "__main__":
    run(main)
