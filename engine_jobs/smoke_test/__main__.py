"""The smoke test's command line: `python -m engine_jobs.smoke_test --help`."""

import argparse
import io
import json
import sys
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.errors import UserError, run
from engine_jobs.smoke_test.cluster import ClusterAccess
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.input_text import read_text
from engine_jobs.smoke_test.runner import run_smoke_test
from engine_jobs.smoke_test.spec import (
    GrpcProbe,
    HttpProbe,
    InferenceServiceTarget,
    SmokeTest,
    UrlTarget,
    v2_probes,
)

EXAMPLES = """
examples:
  the seed's question, through the gateway in front of the cluster:
    python -m engine_jobs.smoke_test --inference-service bloom-560m --namespace default \\
      --gateway http://127.0.0.1:8888 --path /v1/models/fastertransformer:predict \\
      --data '{"inputs":[{"input":"Kubernetes is the best platform to serve your models because","output_len":18}]}' \\
      --answer /0/0 --model fastertransformer --grpc predictor
  an address, without Kubernetes:
    python -m engine_jobs.smoke_test --url http://127.0.0.1:8000 --model ensemble \\
      --path /v2/models/ensemble/generate --data '{"text_input":"What is ML?","max_tokens":20}' --answer /text_output
  a test as the stack describes it:
    python -m engine_jobs.smoke_test --spec smoke-test.json

exit code: 0 it passed, 1 it failed, 2 the command line is wrong
"""


def parser() -> argparse.ArgumentParser:
    arguments = argparse.ArgumentParser(
        prog="python -m engine_jobs.smoke_test",
        description="Waits for a served model, asks it a question and gives a verdict.",
        epilog=EXAMPLES,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    whole = arguments.add_argument_group("a whole test, as JSON")
    whole.add_argument("--spec", metavar="FILE", help="the test, from a file ('-': standard input)")
    whole.add_argument("--spec-json", metavar="JSON", help="the test itself")
    where = arguments.add_argument_group("where")
    where.add_argument("--inference-service", metavar="NAME", help="the InferenceService to wait for and to ask")
    where.add_argument("--namespace", default="default", help="its namespace (default: %(default)s)")
    where.add_argument("--gateway", metavar="URL", help="where its requests go (default: its own .status.url)")
    where.add_argument("--kubeconfig", metavar="FILE", help="default: the pod's own cluster, else KUBECONFIG")
    where.add_argument("--context", metavar="NAME", help="the kubeconfig's context (default: its current one)")
    where.add_argument("--url", help="ask this address, without Kubernetes")
    where.add_argument("--host", help="with --url: the Host to ask for")
    what = arguments.add_argument_group("what")
    what.add_argument("--model", metavar="NAME", help="ask the v2 health, and the v2 metadata of this model")
    what.add_argument(
        "--grpc", choices=("service", "predictor", "transformer"), help="ask --model over gRPC too, there"
    )
    what.add_argument("--path", help="the question's path")
    what.add_argument("--data", metavar="JSON", help="the question's body, or @FILE (without it: a GET)")
    what.add_argument(
        "--answer", metavar="POINTER", help="JSON pointer to the answer's text, such as /0/0 or /text_output"
    )
    what.add_argument("--expect-text", metavar="TEXT", help="the exact text (default: any that is not empty)")
    bounds = arguments.add_argument_group("bounds")
    bounds.add_argument(
        "--deadline", type=float, metavar="SECONDS", help=f"for all of it (default: {_default('deadline_s')})"
    )
    bounds.add_argument(
        "--timeout", type=float, metavar="SECONDS", help=f"for one request (default: {_default('request_timeout_s')})"
    )
    bounds.add_argument("--attempts", type=int, metavar="N", help=f"for one probe (default: {_default('attempts')})")
    output = arguments.add_argument_group("the verdict")
    output.add_argument("--json", action="store_true", help="as JSON on standard output, in place of text")
    output.add_argument("--termination-log", metavar="FILE", help="as JSON of 4 KiB at most into this file as well")
    output.add_argument(
        "--verdict-config-map",
        metavar="NAME",
        help="into this ConfigMap in the InferenceService's namespace as well, owned by the Job of that name and $JOB_UID",
    )
    return arguments


def main(argv: Sequence[str]) -> None:
    options = parser().parse_args(argv)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):  # an answer may hold what the terminal cannot show
            stream.reconfigure(errors="backslashreplace")
    try:
        test = _test(options)
        if options.verdict_config_map is not None and not isinstance(test.target, InferenceServiceTarget):
            raise UserError(
                "--verdict-config-map goes with an InferenceService: its namespace is where the ConfigMap is"
            )
    except UserError as error:
        _leave(options.termination_log, json.dumps({"ok": False, "error": str(error)}))
        raise
    access = ClusterAccess(kubeconfig=options.kubeconfig, context=options.context)
    verdict = run_smoke_test(test, cluster=access, report=lambda line: print(line, file=sys.stderr, flush=True))
    _leave(options.termination_log, verdict.termination_message())
    print(verdict.to_json() if options.json else verdict.text(), flush=True)
    if options.verdict_config_map is not None and isinstance(test.target, InferenceServiceTarget):
        from engine_jobs.smoke_test.record import record

        record(verdict, options.verdict_config_map, test.target.namespace, access)
    if not verdict.ok:
        sys.exit(1)


def _test(options: argparse.Namespace) -> SmokeTest:
    sources = ("spec", "spec_json", "inference_service", "url")
    given = [f"--{name.replace('_', '-')}" for name in sources if getattr(options, name) is not None]
    if len(given) != 1:
        raise UserError(
            f"give one of --spec, --spec-json, --inference-service and --url, not {' and '.join(given) or 'none'}"
        )
    if options.spec is not None or options.spec_json is not None:
        own = (
            "gateway",
            "host",
            "model",
            "grpc",
            "path",
            "data",
            "answer",
            "expect_text",
            "deadline",
            "timeout",
            "attempts",
        )
        if both := [name for name in own if getattr(options, name) is not None]:
            raise UserError(f"{given[0]} is a whole test, so --{both[0].replace('_', '-')} has no place beside it")
        if options.spec_json is not None:
            return SmokeTest.from_json(options.spec_json, "--spec-json")
        return SmokeTest.from_json(read_text(options.spec), options.spec)
    bounds = {"deadline_s": options.deadline, "request_timeout_s": options.timeout, "attempts": options.attempts}
    return SmokeTest(
        name=options.inference_service or options.host or options.url,
        target=_target(options),
        probes=_probes(options),
        **{name: value for name, value in bounds.items() if value is not None},
    )


def _target(options: argparse.Namespace) -> InferenceServiceTarget | UrlTarget:
    if options.url is not None:
        if options.gateway is not None:
            raise UserError("--gateway goes with --inference-service; with --url, the URL is where requests go")
        return UrlTarget(url=options.url, host=options.host)
    if options.host is not None:
        raise UserError("--host goes with --url; an InferenceService is asked under the host of its .status.url")
    return InferenceServiceTarget(name=options.inference_service, namespace=options.namespace, gateway=options.gateway)


def _probes(options: argparse.Namespace) -> tuple[HttpProbe | GrpcProbe, ...]:
    probes: list[HttpProbe | GrpcProbe] = []
    if options.model is not None:
        probes += v2_probes(options.model)
    if options.grpc is not None:
        if options.model is None:
            raise UserError("--grpc needs --model, the model to ask for")
        component = None if options.grpc == "service" else options.grpc
        probes.append(GrpcProbe(name="v2 gRPC", model=options.model, component=component))
    if options.path is not None:
        body = _json(options.data)
        probes.append(
            HttpProbe(
                name="question",
                path=options.path,
                method="GET" if options.data is None else "POST",
                body=body,
                answer=options.answer,
                expect_text=options.expect_text,
            )
        )
    elif any(value is not None for value in (options.data, options.answer, options.expect_text)):
        raise UserError("--data, --answer and --expect-text belong to a question: give its --path too")
    if not probes:
        raise UserError("nothing to ask: give --path (with --data and --answer), --model, or both")
    return tuple(probes)


def _json(data: str | None) -> Json:
    if data is None:
        return None
    text = read_text(data[1:]) if data.startswith("@") else data
    try:
        value: Json = json.loads(text)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"--data is not JSON: {error}") from None
    return value


def _leave(path: str | None, message: str) -> None:
    """A termination message is a courtesy to whoever looks at the pod: the verdict does not hang on it."""
    if path is None:
        return
    try:
        Path(path).write_text(message, encoding="utf-8")
    except OSError as error:
        print(f"warning: no termination message: {error}", file=sys.stderr)


def _default(name: str) -> object:
    return SmokeTest.__dataclass_fields__[name].default


if __name__ == "__main__":
    run(main)
