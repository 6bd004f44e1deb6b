"""The engine's figures beside Triton's own on /metrics."""

import threading
from collections.abc import Callable
from typing import Any, Final

import triton_python_backend_utils as pb_utils

from engine_jobs.triton_python.served.schedulers import Counts

GAUGES: Final = {
    "running": "Sequences in the running batch",
    "waiting": "Requests that wait for a place in it",
    "prompt_tokens": "Tokens of prompts read so far",
    "generated_tokens": "Tokens generated so far",
    "cancelled": "Requests whose caller went away",
    "steps": "Decode steps so far",
    "prefills": "Prefills so far",
    "failures": "Failures of the engine so far",
}
INTERVAL_SECONDS: Final = 1.0


class Metrics:
    """Gauges `llm_serving_<name>{model, version}`, and `llm_serving_batching{model, version, kind}` = 1; kept up to date by a
    thread of their own, for each value set is a message to Triton's process."""

    def __init__(self, model: str, version: str, batching: str, counts: Callable[[], Counts]) -> None:
        self._counts = counts
        self._families: list[Any] = []
        self._set: dict[str, int] = {}
        labels = {"model": model, "version": version}
        self._gauges = {name: self._gauge(f"llm_serving_{name}", text, labels) for name, text in GAUGES.items()}
        how = self._gauge("llm_serving_batching", "How the model's requests are batched", {**labels, "kind": batching})
        how.set(1)
        self._batching = how
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._keep_up, name="metrics", daemon=True)
        self._thread.start()

    def stop(self) -> None:
        self._stopped.set()
        self._thread.join()

    def _keep_up(self) -> None:
        while not self._stopped.wait(INTERVAL_SECONDS):
            counts = self._counts()
            for name, gauge in self._gauges.items():
                value = getattr(counts, name)
                if self._set.get(name) != value:
                    self._set[name] = value
                    gauge.set(value)

    def _gauge(self, name: str, text: str, labels: dict[str, str]) -> Any:
        family = pb_utils.MetricFamily(name=name, description=text, kind=pb_utils.MetricFamily.GAUGE)
        # A metric whose family is gone is gone too.
        self._families.append(family)
        return family.Metric(labels=labels)
