"""Asks a served `tensorrt_llm` in tokens, many requests at once, streaming or not: the flags of tensorrtllm_backend's
inflight_batcher_llm_client.py (v0.17.0), with `--text` as often as there are prompts, and `--requests`.

    python -m engine_jobs.triton_cli.inflight_client --url localhost:8001 --tokenizer-dir /mnt/models/tokenizer \\
        --request-output-len 50 --text "What is ML?" --text "Who was Soyer?" --streaming
"""

import argparse
import itertools
import sys
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

from engine_jobs import errors
from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.text_stream import TextStream
from engine_jobs.tensorrt_llm.repository_models.tokenizer import Tokenizer, read_tokenizer
from engine_jobs.triton_cli.inflight_request import Connection, Generated, Sampling, ask

DEFAULT_TEXT = "Born in north-east France, Soyer trained as a"
AT_ONCE = 256


def run_requests(arguments: argparse.Namespace, tokenizer: Tokenizer) -> list[str | UserError]:
    """Sends all requests at once; for each its whole output, or what was wrong with it. Prints each when it is there."""
    texts = arguments.text or [DEFAULT_TEXT]
    prompts = list(itertools.islice(itertools.cycle(texts), arguments.requests or len(texts)))
    connection = Connection(
        url=arguments.url,
        model=arguments.model_name,
        authority=arguments.authority,
        timeout_s=arguments.stream_timeout,
        ssl=arguments.ssl,
        root_certificates=arguments.root_certificates,
        private_key=arguments.private_key,
        certificate_chain=arguments.certificate_chain,
    )

    def one(index: int, prompt: str) -> str | UserError:
        try:
            return _one(arguments, tokenizer, connection, index, prompt, alone=len(prompts) == 1)
        except UserError as error:
            _print(f"Input: {prompt}", f"error: {error}")
            return error

    with ThreadPoolExecutor(min(len(prompts), AT_ONCE)) as pool:
        return list(pool.map(one, range(len(prompts)), prompts))


def _one(
    arguments: argparse.Namespace, tokenizer: Tokenizer, connection: Connection, index: int, prompt: str, *, alone: bool
) -> str:
    ids = tokenizer.encode(prompt, True)
    if not prompt or not ids:
        raise UserError("the prompt is empty: give --text some text")
    sampling = Sampling(
        request_output_len=arguments.request_output_len,
        end_id=tokenizer.end_id if arguments.end_id is None else arguments.end_id,
        pad_id=tokenizer.pad_id if arguments.pad_id is None else arguments.pad_id,
        streaming=arguments.streaming,
        beam_width=arguments.beam_width,
        options={name: getattr(arguments, name) for name in OPTIONS if getattr(arguments, name) is not None},
    )
    stream = TextStream(lambda sequences: [tokenizer.decode(each, True) for each in sequences])

    def told(tokens: list[int]) -> None:
        piece = stream.feed(tokens)
        if alone and arguments.streaming and piece:
            print(piece, end="", flush=True)

    start = time.monotonic()
    name = arguments.request_id and f"{arguments.request_id}{'' if alone else f'-{index}'}"
    answer = ask(connection, ids, sampling, request_id=name, stop_after_s=arguments.stop_after_ms / 1000, told=told)
    if alone and arguments.streaming:
        print(stream.finish())
    _report(arguments, prompt, answer, tokenizer, ids, time.monotonic() - start)
    return tokenizer.decode(answer.without_prompt(ids)[0], True) if answer.beams else ""


def _report(
    arguments: argparse.Namespace, prompt: str, answer: Generated, tokenizer: Tokenizer, ids: list[int], seconds: float
) -> None:
    beams = answer.without_prompt(ids)
    lines = [f"Input: {prompt}"]
    lines += [f"Output beam {beam}: {tokenizer.decode(tokens, True)}" for beam, tokens in enumerate(beams)]
    if answer.cancelled:
        lines.append(f"Request is cancelled after {arguments.stop_after_ms} ms")
    if arguments.verbose:
        first = f", the first after {answer.first_token_s:.3f} s" if answer.first_token_s is not None else ""
        lines.append(f"{sum(map(len, beams))} tokens in {answer.responses} responses, {seconds:.3f} s{first}")
    _print(*lines)


def _print(*lines: str) -> None:
    """One request's lines at once: several are told at the same time."""
    sys.stdout.write("".join(f"{line}\n" for line in lines))
    sys.stdout.flush()


OPTIONS = ("temperature", "repetition_penalty", "presence_penalty", "frequency_penalty", "top_k", "top_p")
"""Flags that are sent where they are given, so that the model's own defaults hold else."""


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="engine_jobs.triton_cli.inflight_client", description=(__doc__ or "").split("\n\n")[0]
    )
    parser.add_argument("-u", "--url", default="localhost:8001", help="host:port of Triton's gRPC (%(default)s)")
    parser.add_argument("--authority", metavar="HOST", help="the host to ask for at a gateway")
    parser.add_argument("--model-name", default="tensorrt_llm", help="the engine's model (%(default)s)")
    parser.add_argument("--text", action="append", help=f"a prompt; as often as wanted ({DEFAULT_TEXT!r})")
    parser.add_argument(
        "--requests", type=_positive, metavar="N", help="how many requests, all at once: the prompts in turn"
    )
    parser.add_argument("--tokenizer-dir", type=Path, required=True, metavar="DIR", help="the checkpoint's tokenizer")
    parser.add_argument(
        "--request-output-len", type=_positive, default=16, metavar="N", help="tokens at most (%(default)s)"
    )
    parser.add_argument("-S", "--streaming", action="store_true", help="take the tokens as they are made")
    parser.add_argument("-b", "--beam-width", type=_positive, default=1, metavar="N")
    parser.add_argument("--temperature", type=float)
    parser.add_argument("--repetition-penalty", type=float)
    parser.add_argument("--presence-penalty", type=float)
    parser.add_argument("--frequency-penalty", type=float)
    parser.add_argument("--top-k", type=int)
    parser.add_argument("--top-p", type=float)
    parser.add_argument("--end-id", type=int, help="the tokenizer's by default")
    parser.add_argument("--pad-id", type=int, help="the tokenizer's by default")
    parser.add_argument("--request-id", default="", help="with several requests, -0, -1, … follows it")
    parser.add_argument("--stop-after-ms", type=int, default=0, metavar="MS", help="cancel each request after so long")
    parser.add_argument(
        "-t", "--stream-timeout", type=float, metavar="S", help="how long a request may take (no limit)"
    )
    parser.add_argument("-s", "--ssl", action="store_true", help="use TLS")
    parser.add_argument("-r", "--root-certificates", metavar="FILE")
    parser.add_argument("-p", "--private-key", metavar="FILE")
    parser.add_argument("-x", "--certificate-chain", metavar="FILE")
    parser.add_argument("-v", "--verbose", action="store_true", help="tell tokens and times too")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return number


def main(argv: Sequence[str]) -> None:
    arguments = parse(argv)
    tokenizer = read_tokenizer(arguments.tokenizer_dir)
    start = time.monotonic()
    told: list[Any] = run_requests(arguments, tokenizer)
    failed = [each for each in told if isinstance(each, UserError)]
    if len(told) > 1:
        print(
            f"{len(told) - len(failed)} of {len(told)} requests answered in {time.monotonic() - start:.3f} s",
            file=sys.stderr,
        )
    if failed:
        raise UserError(f"{len(failed)} of {len(told)} requests failed; the first: {failed[0]}")


if __name__ == "__main__":
    errors.run(main)
