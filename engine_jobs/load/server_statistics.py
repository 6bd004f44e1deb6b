"""Triton's own statistics of a model: how long its requests waited and computed, and how large its batches were.

Extension "statistics" of the v2 protocol (triton-inference-server/server, docs/protocol/extension_statistics.md). A server without it
(a KServe transformer, TorchServe) is measured from outside alone.
"""

from dataclasses import dataclass
from typing import Any

import httpx

from engine_jobs.load.results import ServerTimes
from engine_jobs.smoke_test.endpoint import Origin
from engine_jobs.smoke_test.http_probe import certificates

TIMEOUT_S = 5.0
PARTS = ("queue", "compute_input", "compute_infer", "compute_output")


@dataclass(frozen=True, kw_only=True)
class Counters:
    """What a model has done since it was loaded; `nanoseconds` by part, over `requests` inferences in `executions`."""

    requests: int
    executions: int
    nanoseconds: dict[str, int]


async def read_counters(origin: Origin, model: str | None) -> Counters | None:
    """None where the server does not tell."""
    if model is None:
        return None
    headers = {"Host": origin.host} if origin.host else {}
    try:
        async with httpx.AsyncClient(verify=certificates(), timeout=TIMEOUT_S, trust_env=False) as client:
            response = await client.get(f"{origin.base}/v2/models/{model}/stats", headers=headers)
            return _counters(response.json()) if response.status_code == httpx.codes.OK else None
    except (httpx.HTTPError, ValueError, KeyError, TypeError):
        return None


def _counters(document: Any) -> Counters:
    versions = document["model_stats"]
    return Counters(
        requests=sum(version["inference_count"] for version in versions),
        executions=sum(version["execution_count"] for version in versions),
        nanoseconds={part: sum(version["inference_stats"][part]["ns"] for version in versions) for part in PARTS},
    )


def times_between(before: Counters | None, after: Counters | None) -> ServerTimes | None:
    """The averages of what happened between two readings; None where nothing did, or the model was loaded anew."""
    if before is None or after is None or after.requests <= before.requests or after.executions <= before.executions:
        return None
    requests = after.requests - before.requests
    queue, given, infer, taken = (
        round((after.nanoseconds[part] - before.nanoseconds[part]) / requests / 1e6, 4) for part in PARTS
    )
    return ServerTimes(
        queue=queue,
        compute_input=given,
        compute_infer=infer,
        compute_output=taken,
        batch=round(requests / (after.executions - before.executions), 3),
    )
