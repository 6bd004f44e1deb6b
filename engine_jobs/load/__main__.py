"""The command line of load tests: `python -m engine_jobs.load --help`."""

import argparse
import asyncio
import shlex
import signal
import sys
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from engine_jobs.errors import UserError, run
from engine_jobs.load import arguments
from engine_jobs.load.progress import Progress
from engine_jobs.load.results import SweepResult, columns
from engine_jobs.load.spec import Measurement, SweepSpec
from engine_jobs.load.write import csv_text, read_result, refuse_existing, results_json, results_line, write_folder

EXAMPLES = """
examples:
  python -m engine_jobs.load sweep --url http://127.0.0.1:8888 --host tiny-llama-models.llm.localhost \\
    --path /v2/models/ensemble/generate --data '{"text_input":"What is ML?","max_tokens":20}' --answer /text_output \\
    --concurrency 1,2,4,8,16 --out load-results/tiny-llama
  python -m engine_jobs.load compare no-batching/ dynamic/ instances/ --out compared
  kubectl logs job/load-tiny-llama > log && python -m engine_jobs.load report log --out load-results/tiny-llama

exit code: 0 measured, 1 not, or too many requests failed, 2 the command line is wrong
"""


def parser() -> argparse.ArgumentParser:
    whole = argparse.ArgumentParser(
        prog="python -m engine_jobs.load",
        description="Measures a served model under load.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = whole.add_subparsers(dest="command", required=True)

    sweep = commands.add_parser("sweep", help="throughput and latency at several numbers of concurrent requests")
    sweep.add_argument(
        "--concurrency", type=arguments.numbers, default=SweepSpec.concurrency, metavar="1,2,4", help="or 2:16:2"
    )
    sweep.add_argument(
        "--max-error-percent",
        type=float,
        default=0.0,
        metavar="X",
        help="exit with 1 where more of a level's requests fail (default: %(default)s)",
    )
    arguments.add_workload_arguments(sweep)
    arguments.add_measurement_arguments(sweep, Measurement())
    arguments.add_output_arguments(sweep)

    compare = commands.add_parser("compare", help="several sweeps on one page, with their ratios to the first")
    compare.add_argument("results", nargs="+", type=Path, help="results.json, its folder, or a log that holds it")
    compare.add_argument("--names", metavar="A,B,…", help="what to call them (default: their names)")
    compare.add_argument(
        "--at", type=int, metavar="CONCURRENCY", help="the level to print (default: the highest in all)"
    )
    arguments.add_output_arguments(compare)

    report = commands.add_parser("report", help="the files of a result again, such as from a Job's log")
    report.add_argument("result", type=Path, help="results.json, its folder, or a log that holds it")
    report.add_argument("--out", type=Path, metavar="DIR", required=True, help="where the files go")
    return whole


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    signal.signal(signal.SIGTERM, _interrupt)  # the end of a Job's time is Ctrl-C
    match options.command:
        case "sweep":
            _sweep(options, argv)
        case "report":
            refuse_existing(options.out)
            write_result(options.out, read_result(options.result))


def _sweep(options: argparse.Namespace, argv: Sequence[str]) -> None:
    from engine_jobs.load.sweep import SweepRun
    from engine_jobs.load.sweep_report import sweep_text

    refuse_existing(options.out)
    spec = SweepSpec(
        workload=arguments.workload(options),
        concurrency=options.concurrency,
        measurement=arguments.measurement(options),
    )
    progress = Progress(options.progress)
    sweep = SweepRun(
        spec=spec,
        command=command_line(argv),
        access=arguments.access(options),
        tokenizer=options.tokenizer,
        progress=progress,
    )
    sweep.prepare()
    try:
        asyncio.run(sweep.run())
    finally:
        progress.clear()
        result = sweep.result()
        if result.levels:
            print(sweep_text(result), flush=True)
            leave(options, result)
    failed = [
        level
        for level in result.levels
        if 100 * level.errors > options.max_error_percent * (level.requests + level.errors)
    ]
    if failed:
        levels = ", ".join(str(level.concurrency) for level in failed)
        raise UserError(f"requests failed at concurrency {levels} (--max-error-percent {options.max_error_percent:g})")


def leave(options: argparse.Namespace, result: SweepResult) -> None:
    """The results where the command line wants them."""
    if options.json:
        print(results_line(result), flush=True)
    if options.out is not None:
        write_result(options.out, result)


def write_result(folder: Path, result: object) -> None:
    from engine_jobs.load.sweep_report import sweep_page

    assert isinstance(result, SweepResult)
    rows = [columns(level) for level in result.levels]
    files = {"results.json": results_json(result), "results.csv": csv_text(rows), "index.html": sweep_page(result)}
    write_folder(folder, files)
    print(f"results: {folder / 'index.html'}, results.csv, results.json", file=sys.stderr)


def command_line(argv: Sequence[str]) -> str:
    """The command, to paste into a shell; a workload given as JSON is named only, for the report has it."""
    words = [
        "'…'" if before == "--workload-json" else shlex.quote(word)
        for before, word in zip(("", *argv), argv, strict=False)
    ]
    return " ".join(["python -m engine_jobs.load", *words])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run(main)
