"""The command line of load tests: `python -m engine_jobs.load --help`."""

import argparse
import asyncio
import shlex
import signal
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from types import FrameType

from engine_jobs.errors import UserError, run
from engine_jobs.load import arguments
from engine_jobs.load.progress import Progress
from engine_jobs.load.results import SweepResult, TuneResult, columns
from engine_jobs.load.spec import OFF, TUNE_MEASUREMENT, Measurement, SweepSpec, TuneSpec, Tuning, from_json
from engine_jobs.load.write import csv_text, read_result, refuse_existing, results_json, results_line, write_folder

EXAMPLES = """
examples:
  python -m engine_jobs.load sweep --url http://127.0.0.1:8888 --host tiny-llama-models.llm.localhost \\
    --path /v2/models/ensemble/generate --data '{"text_input":"What is ML?","max_tokens":20}' --answer /text_output \\
    --concurrency 1,2,4,8,16 --out load-results/tiny-llama
  python -m engine_jobs.load tune --url http://127.0.0.1:8000 --path /v2/models/falcon7b/generate \\
    --data '{"text_input":"I am going"}' --answer /text_output --model falcon7b --p99-ms 2000 --out load-results/falcon7b-tuned
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
    compare.add_argument("--out", type=Path, metavar="DIR", help="index.html with all curves goes here")

    tune = commands.add_parser("tune", help="the best settings of a model whose Triton is in explicit model control")
    tune.add_argument("--tuning-json", metavar="JSON", help="the model and where the stack file keeps its settings")
    tune.add_argument("--model", help="or: the model's name in Triton")
    tune.add_argument("--p99-ms", type=float, metavar="MS", help="the p99 latency that is allowed (default: any)")
    tune.add_argument("--search", choices=("quick", "exhaustive"), default="quick", help="default: %(default)s")
    for flag, kind, values in (
        ("--instances", arguments.numbers, TuneSpec.instances),
        ("--max-batch-sizes", arguments.numbers, TuneSpec.max_batch_sizes),
        ("--queue-delays-us", arguments.delays, TuneSpec.queue_delays_us),
        ("--concurrency", arguments.numbers, TuneSpec.concurrency),
    ):
        shown = ",".join("off" if value == OFF else str(value) for value in values)
        tune.add_argument(flag, type=kind, default=values, metavar="LIST", help=f"default: {shown}")
    tune.add_argument("--load-timeout", type=float, default=TuneSpec.load_timeout_s, metavar="SECONDS")
    tune.add_argument("--yes", action="store_true", help="do not ask before the model is loaded with other settings")
    arguments.add_workload_arguments(tune)
    arguments.add_measurement_arguments(tune, TUNE_MEASUREMENT)
    arguments.add_output_arguments(tune)

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
        case "tune":
            _tune(options, argv)
        case "compare":
            _compare(options)
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


def _tune(options: argparse.Namespace, argv: Sequence[str]) -> None:
    from engine_jobs.load.model_control import restoring_body
    from engine_jobs.load.tune import TuneRun, confirm
    from engine_jobs.load.tune_report import tune_text

    refuse_existing(options.out)
    if (options.tuning_json is None) == (options.model is None):
        raise UserError("give one of --tuning-json and --model")
    tuning = Tuning(model=options.model) if options.model else from_json(Tuning, options.tuning_json, "--tuning-json")
    spec = TuneSpec(
        workload=arguments.workload(options),
        tuning=tuning,
        p99_ms=options.p99_ms,
        search=options.search,
        instances=options.instances,
        max_batch_sizes=options.max_batch_sizes,
        queue_delays_us=options.queue_delays_us,
        concurrency=options.concurrency,
        measurement=arguments.measurement(options),
        load_timeout_s=options.load_timeout,
    )
    progress = Progress(options.progress)
    search = TuneRun(spec=spec, command=command_line(argv), access=arguments.access(options), progress=progress)
    confirm(search.prepare(), yes=options.yes)
    with tempfile.NamedTemporaryFile("w", prefix=f"{tuning.model}-as-served-", suffix=".json", delete=False) as file:
        file.write(restoring_body(search.served))
    way_back = search.way_back(file.name)
    print(f"Should this be killed, the way back is: {way_back}", file=sys.stderr, flush=True)
    try:
        search.run()
    finally:
        result = search.result()
        if result.trials:
            print(tune_text(result), flush=True)
            leave(options, result)
        if not result.restored:
            raise UserError(f"{tuning.model}: could not be loaded as it was served before; try: {way_back}")
        Path(file.name).unlink()
        print("the model is served as before", file=sys.stderr)


def _compare(options: argparse.Namespace) -> None:
    from engine_jobs.load.compare import Comparison, compare_page, compare_text

    refuse_existing(options.out)
    results = [read_result(path) for path in options.results]
    sweeps = [result for result in results if isinstance(result, SweepResult)]
    if len(sweeps) < len(results):
        raise UserError("compare takes the results of sweeps; a tuning has a comparison in itself")
    names = options.names.split(",") if options.names else [_called(path) for path in options.results]
    if len(names) != len(sweeps):
        raise UserError(f"--names: {len(names)} names for {len(sweeps)} results")
    comparison = Comparison.of(list(zip(names, sweeps, strict=True)), options.at)
    print(compare_text(comparison))
    if options.out is not None:
        files = {f"{number + 1}-results.json": results_json(result) for number, result in enumerate(sweeps)}
        write_folder(options.out, {**files, "index.html": compare_page(comparison)})
        print(f"the page: {options.out / 'index.html'}", file=sys.stderr)


def _called(path: Path) -> str:
    return path.parent.name if path.name == "results.json" else path.stem


def leave(options: argparse.Namespace, result: SweepResult | TuneResult) -> None:
    """The results where the command line wants them."""
    if options.json:
        print(results_line(result), flush=True)
    if options.out is not None:
        write_result(options.out, result)


def write_result(folder: Path, result: SweepResult | TuneResult) -> None:
    """Raises UserError for a result in which nothing was measured: there is nothing to show."""
    if isinstance(result, SweepResult):
        from engine_jobs.load.sweep_report import sweep_page

        if not result.levels:
            raise UserError("no level was measured, so there is nothing to show")
        text, rows = sweep_page(result), [columns(level) for level in result.levels]
    else:
        from engine_jobs.load.tune_report import csv_rows, tune_page

        if not result.trials:
            raise UserError("no settings were measured, so there is nothing to show")
        text, rows = tune_page(result), csv_rows(result)
    write_folder(folder, {"results.json": results_json(result), "results.csv": csv_text(rows), "index.html": text})
    print(f"results: {folder / 'index.html'}, results.csv, results.json", file=sys.stderr)


def command_line(argv: Sequence[str]) -> str:
    """The command, to paste into a shell; a workload given as JSON is named only, for the report has it."""
    words = [
        "'…'" if before in ("--workload-json", "--tuning-json") else shlex.quote(word)
        for before, word in zip(("", *argv), argv, strict=False)
    ]
    return " ".join(["python -m engine_jobs.load", *words])


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    run(main)
