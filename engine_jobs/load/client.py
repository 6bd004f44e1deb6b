"""The clients of a load test: each worker has one, with a connection of its own, and asks one request at a time."""

from typing import Protocol

from engine_jobs.errors import UserError
from engine_jobs.load.sample import Answered
from engine_jobs.load.spec import Workload
from engine_jobs.load.workload import requests
from engine_jobs.smoke_test.attempts import Deadline, ProbeFailed
from engine_jobs.smoke_test.cluster import ClusterAccess
from engine_jobs.smoke_test.endpoint import Endpoint, Origin
from engine_jobs.smoke_test.spec import GrpcProbe, HttpProbe, UrlTarget

FIND_SERVICE_S = 60.0


class Client(Protocol):
    """`ask` sends the `number`-th request and returns its answer, or raises RequestFailed."""

    async def ask(self, number: int) -> Answered: ...

    async def close(self) -> None: ...


def find_origin(workload: Workload, access: ClusterAccess) -> Origin:
    """Where the workload's requests go. Raises UserError where its InferenceService is not there or not ready."""
    try:
        if isinstance(workload.target, UrlTarget):
            return Endpoint(url=workload.target.url, host=workload.target.host).origin(None)
        from engine_jobs.smoke_test.inference_service import wait_until_serving

        endpoint = wait_until_serving(workload.target, access, Deadline(FIND_SERVICE_S), lambda line: None)
        return endpoint.origin(workload.probe.component)
    except ProbeFailed as error:
        raise UserError(str(error)) from None


def ask_once(workload: Workload, origin: Origin) -> str:
    """Asks each of the workload's requests once, in the smoke test's way, before any load. Returns the first request, as a
    command or in words. Raises UserError where an answer is not as it should be: there is nothing to measure then."""
    probes = requests(workload)
    for probe in probes:
        try:
            if isinstance(probe, HttpProbe):
                from engine_jobs.smoke_test import http_probe

                http_probe.ask(probe, origin, workload.timeout_s)
            else:
                from engine_jobs.load.grpc_client import ask_once as ask_grpc_once

                ask_grpc_once(probe, origin, workload.timeout_s)
        except ProbeFailed as error:
            raise UserError(f"{workload.name}: not measured, for its first answer is not good: {error}") from None
    return describe(probes[0], origin)


def describe(probe: HttpProbe | GrpcProbe, origin: Origin) -> str:
    """The request, as a command to paste into a shell, or in words."""
    if isinstance(probe, HttpProbe):
        from engine_jobs.smoke_test.http_probe import curl_command

        return curl_command(probe, origin)
    from engine_jobs.smoke_test.grpc_probe import describe as describe_grpc

    return describe_grpc(probe, origin)


async def open_client(workload: Workload, origin: Origin) -> Client:
    probes = requests(workload)
    if isinstance(workload.probe, HttpProbe):
        from engine_jobs.load.http_client import HttpClient

        return HttpClient([each for each in probes if isinstance(each, HttpProbe)], origin, workload.timeout_s)
    from engine_jobs.load.grpc_client import GrpcClient

    return await GrpcClient.connect(
        [each for each in probes if isinstance(each, GrpcProbe)], origin, workload.timeout_s
    )
