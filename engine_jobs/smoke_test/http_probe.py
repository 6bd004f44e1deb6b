"""Asks one HTTP probe and judges its answer."""

import functools
import json
import shlex
import ssl
import time
import urllib.parse

import httpx

from engine_jobs.errors import UserError
from engine_jobs.smoke_test.attempts import Answer, NotYet, ProbeFailed
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.endpoint import Origin
from engine_jobs.smoke_test.spec import HttpProbe

LARGEST_ANSWER_BYTES = 8 << 20
"""A smoke test's answer is a sentence; more than this is a mistake, and would fill the verdict."""

NOT_YET = {
    404: "no route for this Host and path",
    429: "the server takes no more requests",
    502: "the gateway cannot reach the backend",
    503: "the route is there but no backend is ready",
    504: "the backend does not answer the gateway in time",
}
"""Statuses that pass by themselves while the route and the backend appear."""


def curl_command(probe: HttpProbe, origin: Origin) -> str:
    """The request, as a command to paste into a shell."""
    words = ["curl", "-sS"]
    if origin.host is not None:
        words += ["-H", f"Host: {origin.host}"]
    if probe.method == "POST":
        words += ["-H", "Content-Type: application/json", "-d", request_body(probe)]
    return shlex.join([*words, origin.base + probe.path])


def ask(probe: HttpProbe, origin: Origin, timeout_s: float) -> Answer:
    """Sends the request once. Raises NotYet (ask again) or ProbeFailed (final)."""
    status, content_type, body = _send(probe, origin, timeout_s)
    text = body.decode("utf-8", "replace")
    if status != probe.expect_status:
        message = f"status {status} where {probe.expect_status} is expected, from {origin.where(probe.path)}"
        if status in NOT_YET:
            from_server = status == 404 and "json" in content_type
            reason = "the server has no such model or path" if from_server else NOT_YET[status]
            raise NotYet(f"{message}: {reason}{_excerpt(text)}", status=str(status))
        raise ProbeFailed(f"{message}{_excerpt(text)}", status=str(status))
    if probe.answer is None:
        return Answer(status=str(status), text=None)
    try:
        found = _find(text, content_type, probe.answer)
    except UserError as error:
        raise ProbeFailed(f"{error}, from {origin.where(probe.path)}{_excerpt(text)}", status=str(status)) from None
    _judge(found, probe.expect_text, status=str(status))
    return Answer(status=str(status), text=found)


@functools.cache
def certificates() -> ssl.SSLContext:
    """The system's trusted certificates (SSL_CERT_FILE may name others); reading them takes 0.1 s."""
    return ssl.create_default_context()


def request_body(probe: HttpProbe) -> str:
    """The body of a POST, as JSON text."""
    text = json.dumps(probe.body, ensure_ascii=False)
    try:
        text.encode()
    except UnicodeEncodeError:  # half a surrogate pair, which JSON allows as an escape only
        return json.dumps(probe.body)
    return text


def request_headers(probe: HttpProbe, origin: Origin) -> tuple[dict[str, str], dict[str, str]]:
    """The headers, the asked host's among them, and httpx's extensions that ask for that host in TLS as well."""
    headers = {"Accept": "application/json, text/event-stream;q=0.9, */*;q=0.1"}
    extensions = {}
    if origin.host is not None:
        headers["Host"] = origin.host
        extensions["sni_hostname"] = urllib.parse.urlsplit(f"//{origin.host}").hostname or origin.host
    if probe.method == "POST":
        headers["Content-Type"] = "application/json"
    return headers, extensions


def _send(probe: HttpProbe, origin: Origin, timeout_s: float) -> tuple[int, str, bytes]:
    """Status, content type and body. The time-out is for the whole answer, not for each piece of it."""
    headers, extensions = request_headers(probe, origin)
    content = request_body(probe).encode() if probe.method == "POST" else None
    until = time.monotonic() + timeout_s
    body = bytearray()
    try:
        # trust_env is off so that no proxy stands between us and the gateway.
        with (
            httpx.Client(verify=certificates(), timeout=timeout_s, trust_env=False) as client,
            client.stream(
                probe.method, origin.base + probe.path, headers=headers, content=content, extensions=extensions
            ) as response,
        ):
            for chunk in response.iter_bytes():
                body += chunk
                if len(body) > LARGEST_ANSWER_BYTES:
                    raise ProbeFailed(f"the answer of {origin.where(probe.path)} is longer than 8 MiB")
                if time.monotonic() > until:
                    raise httpx.ReadTimeout("the answer is not complete")
            return response.status_code, response.headers.get("content-type", ""), bytes(body)
    except httpx.ConnectTimeout:
        raise NotYet(f"no connection to {origin.base} within {timeout_s:.1f} s: is the gateway up?") from None
    except httpx.ConnectError as error:
        raise NotYet(f"no connection to {origin.base}: {error}. Is the gateway up, and is this its address?") from None
    except httpx.TimeoutException:
        raise ProbeFailed(
            f"no complete answer from {origin.where(probe.path)} within {timeout_s:.1f} s. "
            "The server took the request: look at its log, or give it a longer request time-out"
        ) from None
    except (httpx.RemoteProtocolError, httpx.NetworkError) as error:
        raise NotYet(f"the connection to {origin.where()} broke: {error or type(error).__name__}") from None
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise ProbeFailed(f"cannot ask {origin.where(probe.path)}: {error}") from None


def _find(text: str, content_type: str, pointer: str) -> str:
    """The text at the pointer, joined over the events of an event stream. Raises UserError."""
    if not content_type.startswith("text/event-stream"):
        return text_at(text, pointer)
    events = [line.removeprefix("data:").strip() for line in text.splitlines() if line.startswith("data:")]
    return "".join(text_at(event, pointer) for event in events if event != "[DONE]")


def text_at(document: str, pointer: str) -> str:
    """The text at a JSON pointer of a JSON document; what is not a text is shown as JSON, null and empty containers count as
    empty. Raises UserError."""
    try:
        value: Json = json.loads(document)
    except (json.JSONDecodeError, RecursionError) as error:
        raise UserError(f"the answer is not JSON ({error})") from None
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(value, dict) and key in value:
            value = value[key]
        elif isinstance(value, list) and key.isdecimal() and int(key) < len(value):
            value = value[int(key)]
        else:
            raise UserError(f"the answer has nothing at {pointer} (no {key!r})")
    if isinstance(value, str):
        return value
    return "" if value is None or value == [] or value == {} else json.dumps(value, ensure_ascii=False)


def _judge(found: str, expected: str | None, *, status: str) -> None:
    if expected is None:
        if not found.strip():
            raise ProbeFailed("the answer is empty", status=status, answer=found)
        return
    if found == expected:
        return
    position = next((i for i, (a, b) in enumerate(zip(found, expected, strict=False)) if a != b), None)
    if position is None:
        position = min(len(found), len(expected))
    raise ProbeFailed(
        f"wrong answer, from character {position} on:\n"
        f"  expected {json.dumps(expected, ensure_ascii=False)}\n"
        f"  got      {json.dumps(found, ensure_ascii=False)}",
        status=status,
        answer=found,
    )


def _excerpt(text: str) -> str:
    line = " ".join(text.split())
    return f": {line[:300]}{'…' if len(line) > 300 else ''}" if line else ""
