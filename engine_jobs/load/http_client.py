"""Asks an HTTP probe again and again: v1, v2 and Triton's generate as they are, event streams piece by piece."""

import asyncio
import json
import time
from collections.abc import Sequence

import httpx

from engine_jobs.errors import UserError
from engine_jobs.load.sample import Answered, RequestFailed
from engine_jobs.smoke_test.endpoint import Origin
from engine_jobs.smoke_test.http_probe import certificates, request_body, request_headers, text_at
from engine_jobs.smoke_test.spec import HttpProbe

EXCERPT = 120
"""Characters of an error's text that tell its kind."""


class HttpClient:
    """One connection, kept open from request to request."""

    def __init__(self, probes: Sequence[HttpProbe], origin: Origin, timeout_s: float) -> None:
        self._probes = probes
        self._contents = [request_body(each).encode() if each.method == "POST" else None for each in probes]
        self._origin = origin
        self._timeout_s = timeout_s
        self._headers, self._extensions = request_headers(probes[0], origin)
        limits = httpx.Limits(max_connections=1, max_keepalive_connections=1)
        # trust_env is off so that no proxy stands between us and the gateway.
        self._client = httpx.AsyncClient(verify=certificates(), timeout=None, trust_env=False, limits=limits)

    async def ask(self, number: int) -> Answered:
        turn = number % len(self._probes)
        probe, content = self._probes[turn], self._contents[turn]
        url = self._origin.base + probe.path
        try:
            async with (
                asyncio.timeout(self._timeout_s),
                self._client.stream(
                    probe.method, url, headers=self._headers, content=content, extensions=self._extensions
                ) as response,
            ):
                return await _read(probe, response)
        except TimeoutError:
            raise RequestFailed(f"no complete answer within {self._timeout_s:g} s") from None
        except httpx.ConnectError as error:
            raise RequestFailed(f"no connection: {_excerpt(str(error))}") from None
        except (httpx.RemoteProtocolError, httpx.NetworkError) as error:
            raise RequestFailed(f"the connection broke: {_excerpt(str(error)) or type(error).__name__}") from None
        except httpx.HTTPError as error:
            raise RequestFailed(_excerpt(str(error)) or type(error).__name__) from None

    async def close(self) -> None:
        await self._client.aclose()


async def _read(probe: HttpProbe, response: httpx.Response) -> Answered:
    if response.status_code != probe.expect_status:
        text = (await response.aread()).decode("utf-8", "replace")
        raise RequestFailed(f"status {response.status_code}: {_message(text)}".rstrip(": "))
    if response.headers.get("content-type", "").startswith("text/event-stream"):
        answered = await _read_events(probe, response)
    else:
        body = (await response.aread()).decode("utf-8", "replace")
        answered = Answered(text=body if probe.answer is None else _text(body, probe.answer))
    if probe.expect_text is not None and answered.text != probe.expect_text:
        raise RequestFailed(f"wrong answer: {_excerpt(json.dumps(answered.text, ensure_ascii=False))}")
    if probe.answer is not None and not answered.text.strip():
        raise RequestFailed("the answer is empty")
    return answered


async def _read_events(probe: HttpProbe, response: httpx.Response) -> Answered:
    """The events' texts joined, and when each that has one came."""
    texts, arrivals = [], []
    async for line in response.aiter_lines():
        arrived = time.perf_counter()
        event = line.removeprefix("data:").strip()
        if not line.startswith("data:") or event == "[DONE]":
            continue
        text = event if probe.answer is None else _text(event, probe.answer)
        if text:
            texts.append(text)
            arrivals.append(arrived)
    return Answered(text="".join(texts), arrivals=tuple(arrivals))


def _text(document: str, pointer: str) -> str:
    try:
        return text_at(document, pointer)
    except UserError as error:
        raise RequestFailed(_message(document) if '"error"' in document else _excerpt(str(error))) from None


def _message(body: str) -> str:
    """What a server says is wrong: its `error`, or the start of what it sent."""
    try:
        document = json.loads(body)
    except (json.JSONDecodeError, RecursionError):
        return _excerpt(body)
    told = document.get("error") if isinstance(document, dict) else None
    return _excerpt(told if isinstance(told, str) else body)


def _excerpt(text: str) -> str:
    line = " ".join(text[: 4 * EXCERPT].split())
    return line if len(line) <= EXCERPT else line[:EXCERPT] + "…"
