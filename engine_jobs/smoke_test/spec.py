"""What a smoke test asks, as data: where the model is served and a list of probes. Nothing of a recipe is known here.

A recipe builds a `SmokeTest` (standard library only, so a description stays light), the Job carries it as JSON, and
`engine_jobs.smoke_test.runner` asks it. What needs more than questions and answers (a load test, a dialogue) is not a
smoke test and has no place here.
"""

import hashlib
import json
import math
import re
import urllib.parse
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import ClassVar, Literal

from engine_jobs.errors import UserError
from engine_jobs.smoke_test.decode import Json, decode, encode

Component = Literal["predictor", "transformer"]
"""A part of an InferenceService with a host of its own (`.status.components.<component>.url`)."""

Datatype = Literal[
    "BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64", "FP16", "FP32", "FP64", "BYTES"
]
"""The v2 protocol's tensor types that JSON values fill; a BYTES element is text (UTF-8)."""


@dataclass(frozen=True, kw_only=True)
class HttpProbe:
    """One HTTP request and what its answer must be.

    `answer` is a JSON pointer (RFC 6901) to the text in the response, for instance `/0/0`, `/predictions/0` or
    `/text_output`; of a `text/event-stream` it is looked up in every event and the texts are joined. What it finds must
    equal `expect_text`, or be non-empty where that is None. Without `answer` only the status counts.
    """

    kind: ClassVar[str] = "http"
    name: str
    path: str
    method: Literal["GET", "POST"] = "GET"
    body: Json = None
    expect_status: int = 200
    answer: str | None = None
    expect_text: str | None = None
    component: Component | None = None

    def __post_init__(self) -> None:
        if not self.path.startswith("/") or re.search(r"[\s\x00-\x1f]", self.path):
            raise UserError(
                f"probe {self.name!r}: the path must start with '/' and hold no white space, got {self.path!r}"
            )
        if self.answer is not None and self.answer and not self.answer.startswith("/"):
            raise UserError(f"probe {self.name!r}: `answer` is a JSON pointer and starts with '/', got {self.answer!r}")
        if self.expect_text is not None and self.answer is None:
            raise UserError(
                f"probe {self.name!r}: `expect_text` needs `answer`, the JSON pointer to the text, such as /0/0"
            )
        if self.body is not None and self.method != "POST":
            raise UserError(f"probe {self.name!r}: only a POST has a body")


@dataclass(frozen=True, kw_only=True)
class Tensor:
    """An input tensor of the v2 protocol: `data` is flat, in row-major order, its length the product of `shape`."""

    name: str
    datatype: Datatype
    shape: tuple[int, ...]
    data: tuple[bool | int | float | str, ...]

    def __post_init__(self) -> None:
        size = 1
        for length in self.shape:
            size *= length
        if size != len(self.data) or any(length < 1 for length in self.shape):
            shape = "x".join(map(str, self.shape))
            raise UserError(f"tensor {self.name!r}: shape {shape} needs {size} values, got {len(self.data)}")


@dataclass(frozen=True, kw_only=True)
class ExpectedOutput:
    """An output tensor that must be there and hold something; flattened, it starts with `prefix`."""

    name: str
    prefix: tuple[bool | int | float | str, ...] = ()


@dataclass(frozen=True, kw_only=True)
class GrpcProbe:
    """The v2 protocol over gRPC: server live, server ready, model metadata and, with `inputs`, one inference.

    It goes to the gateway with the service's host (or the component's, or `authority`) as `:authority`; `address`
    (`host:port`) passes the gateway by.
    """

    kind: ClassVar[str] = "grpc"
    name: str
    model: str
    version: str = ""
    inputs: tuple[Tensor, ...] = ()
    expect_output: ExpectedOutput | None = None
    component: Component | None = None
    authority: str | None = None
    address: str | None = None

    def __post_init__(self) -> None:
        if self.expect_output is not None and not self.inputs:
            raise UserError(f"probe {self.name!r}: `expect_output` needs `inputs`; without them nothing is inferred")
        _check_host("authority", self.authority)
        if self.address is not None and not re.fullmatch(r"(\[[0-9A-Fa-f:.]+\]|[^\s:/]+):\d{1,5}", self.address):
            raise UserError(f"probe {self.name!r}: `address` is host:port, got {self.address!r}")


@dataclass(frozen=True, kw_only=True)
class InferenceServiceTarget:
    """A KServe InferenceService, asked under the host of its `.status.url`.

    `gateway` is where requests go (`http://127.0.0.1:8888` from a laptop, another address in a pod); without one they
    go to the URL itself. `pod_labels` are labels that its Deployments' pods must carry before anything is asked: KServe
    copies the InferenceService's own labels there, so a label that changes with the spec keeps an update from being
    judged by the pods that served before it (KServe's Ready stays True while a Deployment rolls).
    """

    kind: ClassVar[str] = "inference-service"
    name: str
    namespace: str
    gateway: str | None = None
    pod_labels: Mapping[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for what in ("name", "namespace"):
            if not re.fullmatch(r"[a-z0-9]([-a-z0-9]{0,61}[a-z0-9])?", getattr(self, what)):
                raise UserError(
                    f"the InferenceService's {what} {getattr(self, what)!r} is no Kubernetes name: "
                    "lower-case letters, digits and '-', 63 at most"
                )
        if self.gateway is not None:
            _check_url("gateway", self.gateway)


@dataclass(frozen=True, kw_only=True)
class UrlTarget:
    """An endpoint asked as it is, without Kubernetes; `host` replaces the Host header (of a gateway's address)."""

    kind: ClassVar[str] = "url"
    url: str
    host: str | None = None

    def __post_init__(self) -> None:
        _check_url("url", self.url)
        _check_host("host", self.host)


@dataclass(frozen=True, kw_only=True)
class SmokeTest:
    """Probes asked in order, until one fails.

    `subject` says what is being served (an artifact's key, image tags): it is shown, and it makes the content key
    another one when the same question is due again. `deadline_s` bounds the whole, the wait for Ready included;
    `request_timeout_s` one request; `attempts` how often one probe is asked while the route and the backend appear. A
    wrong answer is final.
    """

    name: str
    target: InferenceServiceTarget | UrlTarget
    probes: tuple[HttpProbe | GrpcProbe, ...]
    subject: str = ""
    deadline_s: float = 900.0
    request_timeout_s: float = 120.0
    attempts: int = 10

    def __post_init__(self) -> None:
        if not self.probes:
            raise UserError(f"smoke test {self.name!r}: no probe, so nothing would be tested")
        if isinstance(self.target, UrlTarget) and any(probe.component for probe in self.probes):
            raise UserError(
                f"smoke test {self.name!r}: `component` needs an InferenceService, whose status has its host"
            )
        for key in ("deadline_s", "request_timeout_s", "attempts"):
            if not 0 < getattr(self, key) < math.inf:
                raise UserError(f"smoke test {self.name!r}: {key} must be above 0 and finite, got {getattr(self, key)}")
        # 60 and 60.0 are one deadline, so they must have one JSON text.
        for key in ("deadline_s", "request_timeout_s"):
            object.__setattr__(self, key, float(getattr(self, key)))

    def to_dict(self) -> dict[str, Json]:
        document = encode(self)
        assert isinstance(document, dict)
        return document

    def to_json(self) -> str:
        """Canonical (keys sorted, no white space, ASCII), so equal tests have equal text."""
        return json.dumps(self.to_dict(), sort_keys=True, separators=(",", ":"))

    @staticmethod
    def from_dict(document: Json, source: str = "smoke test") -> "SmokeTest":
        """Strict inverse of `to_dict`. Raises UserError, which names `source` and the key."""
        return decode(SmokeTest, document, source)

    @staticmethod
    def from_json(text: str, source: str = "smoke test") -> "SmokeTest":
        try:
            return SmokeTest.from_dict(json.loads(text), source)
        except (json.JSONDecodeError, RecursionError) as error:
            raise UserError(f"{source}: not JSON: {error}") from None


def content_key(test: SmokeTest) -> str:
    """64 hex digits over everything that the test asks, of what and where: the Job that runs it is named by it."""
    return hashlib.sha256(test.to_json().encode()).hexdigest()


def v2_probes(model: str, component: Component | None = None) -> tuple[HttpProbe, ...]:
    """Health and metadata of the v2 (open inference) protocol over HTTP. The metadata must name the model."""
    return (
        HttpProbe(name="v2 live", path="/v2/health/live", component=component),
        HttpProbe(name="v2 ready", path="/v2/health/ready", component=component),
        HttpProbe(
            name="v2 metadata",
            path=f"/v2/models/{urllib.parse.quote(model, safe='')}",
            answer="/name",
            expect_text=model,
            component=component,
        ),
    )


def _check_url(what: str, url: str) -> None:
    try:
        parts = urllib.parse.urlsplit(url)
        good = parts.scheme in ("http", "https") and parts.hostname and parts.port != 0
    except ValueError:
        good = False
    if not good or parts.query or parts.fragment or parts.username or re.search(r"\s", url):
        raise UserError(
            f"{what} {url!r} must look like http://HOST:PORT (or https), without a user, a query or a fragment"
        )


def _check_host(what: str, host: str | None) -> None:
    if host is not None and not re.fullmatch(r"([A-Za-z0-9._-]+|\[[0-9A-Fa-f:.]+\])(:\d{1,5})?", host):
        raise UserError(f"{what} {host!r} is no host name (with or without a port), such as bloom.example.com")
