"""Measures a served model with aiperf, the successor of the tutorial's genai-perf, and prints genai-perf's table.

    python -m engine_jobs.triton_cli.benchmark -m ensemble --url http://localhost:8000 --num-prompts 100 --random-seed 123 \\
        --synthetic-input-tokens-mean 200 --synthetic-input-tokens-stddev 0 --output-tokens-mean 100 --output-tokens-stddev 0 \\
        --output-tokens-mean-deterministic --tokenizer hf-internal-testing/llama-tokenizer --concurrency 1 \\
        --measurement-interval 4000 --profile-export-file my_profile_export.json

The flags are genai-perf's. `--service-kind triton --backend tensorrtllm` is what this does: it asks Triton's generate endpoint.
genai-perf itself needs perf_analyzer, whose wheel wants glibc 2.38, newer than Debian 12's; NVIDIA phases it out for aiperf.
"""

import argparse
import json
import subprocess
import sys
import urllib.parse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_jobs import errors
from engine_jobs.durable import print_line
from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.tokenizer import read_tokenizer
from engine_jobs.triton_cli.benchmark_table import first_error, read_measured

TOKENIZER_FILES = ("tokenizer*", "special_tokens_map.json", "vocab*", "merges.txt", "*.model")
SAID_LINES = 12
TERMINATION_LOG = Path("/dev/termination-log")
"""Where Kubernetes takes a container's last words from (4096 bytes): the table, for the stack's outputs."""


def aiperf_command(arguments: argparse.Namespace, tokenizer: Path, template: Path) -> list[str]:
    """aiperf's command line for genai-perf's flags."""
    model = urllib.parse.quote(arguments.model, safe="")
    path = f"/v2/models/{model}/generate{'_stream' if arguments.streaming else ''}"
    if arguments.request_count:
        end = ["--request-count", str(arguments.request_count)]
    else:
        end = ["--benchmark-duration", f"{arguments.measurement_interval / 1000:g}"]
    return [
        *("aiperf", "profile", "-m", arguments.model, "--url", arguments.url),
        *("--endpoint-type", "template", "--custom-endpoint", path),
        *("--extra-inputs", f"payload_template:{template}", "--extra-inputs", "response_field:text_output"),
        *(["--streaming"] if arguments.streaming else []),
        *("--tokenizer", str(tokenizer), "--random-seed", str(arguments.random_seed)),
        *("--num-prompts", str(arguments.num_prompts)),
        *("--synthetic-input-tokens-mean", str(arguments.synthetic_input_tokens_mean)),
        *("--synthetic-input-tokens-stddev", str(arguments.synthetic_input_tokens_stddev)),
        *("--output-tokens-mean", str(arguments.output_tokens_mean)),
        *("--output-tokens-stddev", str(arguments.output_tokens_stddev)),
        *("--concurrency", str(arguments.concurrency), *end),
        *(["--warmup-request-count", str(arguments.warmup_request_count)] if arguments.warmup_request_count else []),
        *("--output-artifact-dir", str(arguments.output_artifact_dir)),
        *("--profile-export-file", arguments.profile_export_file),
        *("--ui", "none", "--no-server-metrics", "--no-gpu-telemetry"),
    ]


def payload_template(arguments: argparse.Namespace) -> str:
    """The body of each request, for aiperf's template engine (Jinja)."""
    fields = {"text_input": "{{ text|tojson }}", "max_tokens": "{{ max_tokens }}"}
    if arguments.output_tokens_mean_deterministic:
        fields[arguments.min_tokens_input] = "{{ max_tokens }}"
    if arguments.streaming:
        fields["stream"] = "true"
    return "{" + ", ".join(f"{json.dumps(name)}: {value}" for name, value in fields.items()) + "}"


def tokenizer_folder(arguments: argparse.Namespace) -> Path:
    """The tokenizer as a folder: the one that is named, or the Hub's. Raises UserError where it is not to be had."""
    folder = Path(arguments.tokenizer)
    if folder.is_dir():
        return folder
    import huggingface_hub

    try:
        found = huggingface_hub.snapshot_download(
            arguments.tokenizer,
            revision=arguments.tokenizer_revision,
            endpoint=arguments.hub_endpoint,
            allow_patterns=list(TOKENIZER_FILES),
        )
    except (OSError, ValueError) as error:  # the Hub's errors are OSErrors, its opinions of a name ValueErrors
        said = " ".join(str(error).split())
        raise UserError(
            f"--tokenizer {arguments.tokenizer}: neither a folder nor to be had from the Hub: {said}"
        ) from error
    return Path(found)


def run_benchmark(arguments: argparse.Namespace) -> str:
    """Runs aiperf and gives the table. Raises UserError with its last words where it fails."""
    folder = tokenizer_folder(arguments)
    tokenizer = read_tokenizer(folder)
    output: Path = arguments.output_artifact_dir
    output.mkdir(parents=True, exist_ok=True)
    stem = Path(arguments.profile_export_file).stem
    for before in (output / "inputs.json", *(output / f"{stem}{suffix}" for suffix in (".json", ".jsonl", ".csv"))):
        before.unlink(missing_ok=True)
    template = output / "payload.json.jinja"
    template.write_text(payload_template(arguments), encoding="utf-8")
    command = aiperf_command(arguments, folder, template)
    print_line(" ".join(command))
    log = output / "aiperf.log"
    try:
        with log.open("wb") as stream:
            code = subprocess.run(command, stdout=stream, stderr=subprocess.STDOUT, check=False).returncode
    except FileNotFoundError as error:
        raise UserError(
            "aiperf is not installed here: run this in the project's image `aiperf`, or pip install aiperf"
        ) from error
    if code:
        if failed := first_error(output, stem):
            raise UserError(f"{arguments.url}, model {arguments.model}: {failed} (aiperf's own words: {log})")
        said = log.read_text(encoding="utf-8", errors="replace").strip().splitlines()[-SAID_LINES:]
        raise UserError("\n".join([f"aiperf ended with code {code}; its last words (all of them: {log}):", *said]))
    measured = read_measured(output, stem, lambda text: len(tokenizer.encode(text, True)))
    return "\n".join([measured.text(), f"Generated {output / stem}.json, .csv and .jsonl"])


def parse(argv: Sequence[str]) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="engine_jobs.triton_cli.benchmark", description=(__doc__ or "").split("\n")[0]
    )
    number: dict[str, Any] = {"type": _positive, "metavar": "N"}
    spread: dict[str, Any] = {"type": int, "metavar": "N", "default": 0}
    parser.add_argument("-m", "--model", default="ensemble", help="the model to ask (%(default)s)")
    parser.add_argument("--url", default="http://localhost:8000", help="of Triton's HTTP (%(default)s)")
    parser.add_argument(
        "--tokenizer", required=True, help="a Hub id or a folder: makes the prompts and counts the tokens"
    )
    parser.add_argument("--tokenizer-revision", metavar="REVISION")
    parser.add_argument("--hub-endpoint", metavar="URL", help="a Hub other than huggingface.co")
    parser.add_argument("--num-prompts", default=100, help="different prompts (%(default)s)", **number)
    parser.add_argument("--random-seed", type=int, default=0)
    parser.add_argument("--synthetic-input-tokens-mean", default=550, help="of a prompt (%(default)s)", **number)
    parser.add_argument("--synthetic-input-tokens-stddev", **spread)
    parser.add_argument("--output-tokens-mean", default=100, help="of an answer (%(default)s)", **number)
    parser.add_argument("--output-tokens-stddev", **spread)
    parser.add_argument(
        "--output-tokens-mean-deterministic", action="store_true", help="ask for no fewer tokens either"
    )
    parser.add_argument(
        "--min-tokens-input", default="min_length", help="the input that says so; min_tokens since TensorRT-LLM 0.20"
    )
    parser.add_argument("--concurrency", default=1, help="requests under way at once (%(default)s)", **number)
    parser.add_argument(
        "--measurement-interval",
        default=4000,
        help="ms to measure; genai-perf goes on until it is stable (%(default)s)",
        **number,
    )
    parser.add_argument("--request-count", help="requests to measure, in place of an interval", **number)
    parser.add_argument(
        "--warmup-request-count", type=int, default=0, metavar="N", help="requests before that (%(default)s)"
    )
    parser.add_argument("--streaming", action="store_true", help="ask the generate_stream endpoint")
    parser.add_argument("--output-artifact-dir", type=Path, default=Path("artifacts"), metavar="DIR")
    parser.add_argument("--profile-export-file", default="profile_export.json", metavar="NAME")
    return parser.parse_args(argv)


def _positive(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"{text} is below 1")
    return value


def main(argv: Sequence[str]) -> None:
    table = run_benchmark(parse(argv))
    print_line(table)
    if TERMINATION_LOG.exists():
        TERMINATION_LOG.write_text(table, encoding="utf-8")


if __name__ == "__main__":
    sys.stdout.reconfigure(encoding="utf-8")  # type: ignore[union-attr]
    errors.run(main)
