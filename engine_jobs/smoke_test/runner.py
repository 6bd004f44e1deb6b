"""Waits for the service, asks each probe, gives a verdict: the one implementation behind Job, hook and command line."""

import urllib.parse
from collections.abc import Callable

from engine_jobs.smoke_test.attempts import Answer, Deadline, Outcome, ProbeFailed, ask_until_answered
from engine_jobs.smoke_test.cluster import ClusterAccess
from engine_jobs.smoke_test.endpoint import Endpoint, Origin
from engine_jobs.smoke_test.spec import GrpcProbe, HttpProbe, InferenceServiceTarget, SmokeTest
from engine_jobs.smoke_test.verdict import ProbeResult, Verdict


def run_smoke_test(
    test: SmokeTest,
    *,
    cluster: ClusterAccess | None = None,
    report: Callable[[str], None] = lambda line: None,
) -> Verdict:
    """Blocks until the verdict, `test.deadline_s` at most. What is wrong with the service is in it; nothing is raised.

    `report` gets a line whenever there is something new to wait for.
    """
    deadline = Deadline(test.deadline_s)
    endpoint: Endpoint | None = None
    ready_seconds: float | None = None
    results: list[ProbeResult] = []
    error: str | None = None
    try:
        if isinstance(test.target, InferenceServiceTarget):
            from engine_jobs.smoke_test.inference_service import wait_until_serving

            endpoint = wait_until_serving(test.target, cluster or ClusterAccess(), deadline, report)
            ready_seconds = round(deadline.spent(), 3)
        else:
            endpoint = Endpoint(url=test.target.url, host=test.target.host)
        for probe in test.probes:
            results.append(_ask(probe, endpoint, test, deadline, report))
            if not results[-1].ok:
                error = f"{probe.name}: {results[-1].error}"
                break
    except ProbeFailed as failure:
        error = str(failure)
    return Verdict(
        name=test.name,
        ok=error is None,
        subject=test.subject,
        url=endpoint.url if endpoint else None,
        host=(endpoint.host or urllib.parse.urlsplit(endpoint.url).netloc) if endpoint else None,
        ready_seconds=ready_seconds,
        seconds=round(deadline.spent(), 3),
        probes=tuple(results),
        error=error,
    )


def _ask(
    probe: HttpProbe | GrpcProbe,
    endpoint: Endpoint,
    test: SmokeTest,
    deadline: Deadline,
    report: Callable[[str], None],
) -> ProbeResult:
    origin = endpoint.origin(probe.component)
    request, ask = _prepare(probe, origin)
    outcome = ask_until_answered(
        ask,
        deadline=deadline,
        request_timeout_s=test.request_timeout_s,
        attempts=test.attempts,
        report=lambda line: report(f"{probe.name}: {line}"),
    )
    return _result(probe.name, request, outcome)


def _prepare(probe: HttpProbe | GrpcProbe, origin: Origin) -> tuple[str, Callable[[float], Answer]]:
    """The request in words and a call that makes it; the client library is imported here."""
    if isinstance(probe, HttpProbe):
        from engine_jobs.smoke_test import http_probe

        return http_probe.curl_command(probe, origin), lambda timeout: http_probe.ask(probe, origin, timeout)
    from engine_jobs.smoke_test import grpc_probe

    return grpc_probe.describe(probe, origin), lambda timeout: grpc_probe.ask(probe, origin, timeout)


def _result(name: str, request: str, outcome: Outcome) -> ProbeResult:
    result = outcome.result
    failed = isinstance(result, ProbeFailed)
    return ProbeResult(
        name=name,
        ok=not failed,
        request=request,
        status=result.status,
        answer=result.answer if isinstance(result, ProbeFailed) else result.text,
        seconds=round(outcome.seconds, 3),
        attempts=outcome.attempts,
        error=str(result) if failed else None,
    )
