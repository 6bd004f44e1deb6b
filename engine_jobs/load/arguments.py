"""The command line's part that `sweep` and `tune` share: what is asked, and how it is watched."""

import argparse
import dataclasses
import json
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.load.spec import OFF, Measurement, Workload, from_json
from engine_jobs.load.workload import with_values
from engine_jobs.smoke_test.cluster import ClusterAccess
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.input_text import read_text
from engine_jobs.smoke_test.spec import HttpProbe, UrlTarget

OWN = ("url", "host", "path", "data", "answer", "expect_text")


def add_workload_arguments(parser: argparse.ArgumentParser) -> None:
    what = parser.add_argument_group("what is asked")
    what.add_argument("--workload", metavar="FILE", help="the workload as JSON ('-': standard input)")
    what.add_argument("--workload-json", metavar="JSON", help="the workload itself")
    what.add_argument("--url", help="or: ask this address")
    what.add_argument("--host", help="with --url: the Host to ask for")
    what.add_argument("--path", help="with --url: the question's path")
    what.add_argument("--data", metavar="JSON", help="with --url: the question's body, or @FILE")
    what.add_argument(
        "--answer", metavar="POINTER", help="with --url: JSON pointer to the answer's text, such as /text_output"
    )
    what.add_argument(
        "--expect-text", metavar="TEXT", help="with --url: the exact text (default: any that is not empty)"
    )
    what.add_argument("--name", help="what the report calls it (default: the workload's name)")
    what.add_argument("--prompt-at", metavar="POINTER", help="where the body has the prompt")
    what.add_argument("--prompts", metavar="FILE", type=Path, help="prompts to ask in turn, one a line")
    what.add_argument(
        "--set",
        metavar="POINTER=JSON",
        action="append",
        default=[],
        help="another value in the body, such as /max_tokens=64; may be repeated",
    )
    what.add_argument("--timeout", type=float, metavar="SECONDS", help="for one request (default: 120)")
    what.add_argument("--tokenizer", type=Path, metavar="FILE", help="tokenizer.json, to count the answers' tokens")
    what.add_argument("--about", metavar="KEY=VALUE", action="append", default=[], help="a fact for the report")
    what.add_argument("--kubeconfig", metavar="FILE", help="for a workload that names an InferenceService")
    what.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: its current one)")


def add_measurement_arguments(parser: argparse.ArgumentParser, default: Measurement) -> None:
    how = parser.add_argument_group("how it is watched (until three windows agree)")
    how.add_argument("--window", type=float, default=default.window_s, metavar="SECONDS", help="default: %(default)s")
    how.add_argument("--warm-up", type=float, default=default.warm_up_s, metavar="SECONDS", help="default: %(default)s")
    how.add_argument(
        "--min-requests", type=int, default=default.min_requests, metavar="N", help="in a window (default: %(default)s)"
    )
    how.add_argument(
        "--stability-percentage",
        type=float,
        default=default.stability_percent,
        metavar="X",
        help="by how much three windows may differ (default: %(default)s)",
    )
    how.add_argument("--max-windows", type=int, default=default.max_windows, metavar="N", help="default: %(default)s")


def add_output_arguments(parser: argparse.ArgumentParser) -> None:
    output = parser.add_argument_group("results")
    output.add_argument("--out", type=Path, metavar="DIR", help="results.json, results.csv and index.html go here")
    output.add_argument("--json", action="store_true", help="the results as a line of JSON on standard output as well")
    output.add_argument(
        "--progress",
        choices=("auto", "lines", "none"),
        default="auto",
        help="auto: live on a terminal, else silent; lines: a line for each measurement (default: %(default)s)",
    )


def measurement(options: argparse.Namespace) -> Measurement:
    return Measurement(
        window_s=options.window,
        warm_up_s=options.warm_up,
        min_requests=options.min_requests,
        stability_percent=options.stability_percentage,
        max_windows=options.max_windows,
    )


def access(options: argparse.Namespace) -> ClusterAccess:
    return ClusterAccess(kubeconfig=options.kubeconfig, context=options.context)


def workload(options: argparse.Namespace) -> Workload:
    """Raises UserError for a command line that describes none."""
    given = [name for name in ("workload", "workload_json", "url") if getattr(options, name) is not None]
    if len(given) != 1:
        flags = " and ".join(f"--{name.replace('_', '-')}" for name in given) or "none"
        raise UserError(f"give one of --workload, --workload-json and --url, not {flags}")
    if options.url is not None:
        asked = _from_url(options)
    else:
        if both := [name for name in OWN if getattr(options, name) is not None]:
            raise UserError(f"the workload says it all, so --{both[0].replace('_', '-')} has no place beside it")
        text = options.workload_json if options.workload_json is not None else read_text(options.workload)
        asked = from_json(Workload, text, "--workload-json" if options.workload is None else options.workload)
    return _adjusted(asked, options)


def _from_url(options: argparse.Namespace) -> Workload:
    if options.path is None:
        raise UserError("--url needs --path, and --data for a POST")
    body: Json = None
    if options.data is not None:
        text = read_text(options.data[1:]) if options.data.startswith("@") else options.data
        body = _json(text, "--data")
    probe = HttpProbe(
        name="question",
        path=options.path,
        method="GET" if options.data is None else "POST",
        body=body,
        answer=options.answer,
        expect_text=options.expect_text,
    )
    asked = Workload(name="question", target=UrlTarget(url=options.url, host=options.host), probe=probe)
    return dataclasses.replace(asked, name=asked.model or options.host or options.url)


def _adjusted(asked: Workload, options: argparse.Namespace) -> Workload:
    changes = [(pointer, _json(value, f"--set {pointer}")) for pointer, value in map(_pair, options.set)]
    asked = with_values(asked, changes)
    lines = read_text(str(options.prompts)).splitlines() if options.prompts is not None else []
    prompts = tuple(line for line in lines if line.strip())
    if options.prompts is not None and not prompts:
        raise UserError(f"--prompts {options.prompts}: there is no line with text in it")
    return dataclasses.replace(
        asked,
        name=options.name or asked.name,
        prompt=options.prompt_at if options.prompt_at is not None else asked.prompt,
        prompts=prompts or asked.prompts,
        timeout_s=options.timeout if options.timeout is not None else asked.timeout_s,
        about={**asked.about, **dict(map(_pair, options.about))},
    )


def numbers(text: str) -> tuple[int, ...]:
    """`1,2,4`, or perf_analyzer's start:end:step. For argparse: raises ArgumentTypeError."""
    try:
        if ":" in text:
            start, end, step = ([int(part) for part in text.split(":")] + [1])[:3]
            found = tuple(range(start, end + 1, step))
        else:
            found = tuple(int(part) for part in text.split(","))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} is no list of numbers, such as 1,2,4 or 2:16:2") from None
    if not found:
        raise argparse.ArgumentTypeError(f"{text!r} names no number")
    return found


def delays(text: str) -> tuple[int, ...]:
    """Microseconds, with `off` for no dynamic batching, such as `off,0,1000`."""
    parts = text.split(",")
    found = numbers(",".join(part for part in parts if part != "off")) if set(parts) != {"off"} else ()
    if any(value < 0 for value in found):
        raise argparse.ArgumentTypeError(f"{text!r}: a delay is 0 or more microseconds, or off")
    return (OFF, *found) if "off" in parts else found


def _pair(text: str) -> tuple[str, str]:
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise UserError(f"{text!r} is not of the form KEY=VALUE")
    return key, value


def _json(text: str, what: str) -> Json:
    try:
        value: Json = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"{what}: {text[:60]!r} is not JSON: {error}") from None
    return value
