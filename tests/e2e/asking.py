"""A client that asks a stack's model through the gateway, once or all the time."""

import threading
import time
from typing import Any

import httpx

PROMPT = "Kubernetes is the best platform to serve your models because"
ANSWER = f"{PROMPT} it is a cloud-based service that is built on top of the Kubernetes API."


def ask(model: dict[str, Any], prompt: str = PROMPT, tokens: int = 18) -> httpx.Response:
    return httpx.post(
        f"{model['url']}/v1/models/fastertransformer:predict",
        headers={"Host": model["host"]},
        json={"inputs": [{"input": prompt, "output_len": str(tokens)}]},
        timeout=60,
    )


class SteadyClient:
    """Asks twice a second while the body runs, and keeps every answer that was not the right one."""

    def __init__(self, model: dict[str, Any]) -> None:
        self.model = model
        self.asked = 0
        self.wrong: list[str] = []
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)

    def __enter__(self) -> "SteadyClient":
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._stop.set()
        self._thread.join(timeout=90)

    def _run(self) -> None:
        while not self._stop.is_set():
            began = time.monotonic()
            try:
                answer = ask(self.model)
                if answer.status_code != 200 or answer.json() != [[ANSWER]]:
                    self.wrong.append(f"{answer.status_code}: {answer.text[:200]}")
            except httpx.HTTPError as error:
                self.wrong.append(repr(error))
            self.asked += 1
            self._stop.wait(max(0.0, 0.5 - (time.monotonic() - began)))
