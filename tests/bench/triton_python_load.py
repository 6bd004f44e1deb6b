"""A closed loop of HTTP clients against one Triton model, for the benchmarks: throughput and latencies. Standard library only."""

import http.client
import json
import statistics
import threading
import time
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Measured:
    """Over one window: requests a second, and latencies in milliseconds."""

    concurrency: int
    requests: int
    per_second: float
    p50_ms: float
    p99_ms: float

    def row(self) -> str:
        return f"{self.per_second:.1f} infer/s, p50 {self.p50_ms:.0f} ms, p99 {self.p99_ms:.0f} ms"


def measure(
    port: int, model: str, body: dict[str, object], concurrency: int, seconds: float, warm_up: float = 2.0
) -> Measured:
    """`concurrency` clients, each sends its next request when it has its answer. Raises RuntimeError for any that is no 200."""
    begin = time.monotonic() + warm_up
    end = begin + seconds
    latencies: list[float] = []
    errors: list[str] = []
    content = json.dumps(body)

    def client() -> None:
        connection = http.client.HTTPConnection("127.0.0.1", port, timeout=120)
        while (started := time.monotonic()) < end and not errors:
            connection.request("POST", f"/v2/models/{model}/generate", content)
            response = connection.getresponse()
            answer = response.read()
            finished = time.monotonic()
            if response.status != 200:
                errors.append(f"{response.status} {answer!r}")
            # An answer counts where it arrives, so that the window's edges cost as many as they bring.
            if begin <= finished < end:
                latencies.append(finished - started)

    threads = [threading.Thread(target=client) for _ in range(concurrency)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    if errors or not latencies:
        raise RuntimeError(errors[0] if errors else "no answer within the window")
    latencies.sort()
    return Measured(
        concurrency=concurrency,
        requests=len(latencies),
        per_second=len(latencies) / seconds,
        p50_ms=statistics.median(latencies) * 1000,
        p99_ms=latencies[min(int(len(latencies) * 0.99), len(latencies) - 1)] * 1000,
    )
