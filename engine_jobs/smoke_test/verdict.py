"""What a smoke test found, for people (text), for programs (JSON) and for a Job's termination message."""

import json
from dataclasses import dataclass

from engine_jobs.errors import UserError
from engine_jobs.smoke_test.decode import Json, encode

TERMINATION_MESSAGE_BYTES = 4096
"""What the kubelet keeps of /dev/termination-log (Kubernetes, `terminationMessagePath`)."""


@dataclass(frozen=True, kw_only=True)
class ProbeResult:
    """One probe's outcome: `seconds` is the time of the attempt that decided it, `status` the HTTP or gRPC status."""

    name: str
    ok: bool
    request: str
    status: str | None
    answer: str | None
    seconds: float
    attempts: int
    error: str | None = None


@dataclass(frozen=True, kw_only=True)
class Verdict:
    """`url` and `host` are the service's own; `ready_seconds` the wait until it was Ready (None: not waited for)."""

    name: str
    ok: bool
    subject: str
    url: str | None
    host: str | None
    ready_seconds: float | None
    seconds: float
    probes: tuple[ProbeResult, ...]
    error: str | None = None

    def to_dict(self) -> dict[str, Json]:
        """All of it, and at the top request, answer and time of the probe that failed, or else the last with an answer."""
        telling = [probe for probe in self.probes if not probe.ok or probe.answer is not None]
        told = telling[-1] if telling else None
        document = encode(self)
        assert isinstance(document, dict)
        probes = document.pop("probes")
        return document | {
            "request": told.request if told else None,
            "answer": told.answer if told else None,
            "answer_seconds": told.seconds if told else None,
            "probes": probes,
        }

    def to_json(self) -> str:
        return json.dumps(self.to_dict(), ensure_ascii=False)

    def termination_message(self) -> str:
        """JSON of at most 4096 bytes: whole where it fits, else without the probes that passed and with texts cut."""
        document = self.to_dict()
        if len(text := json.dumps(document)) <= TERMINATION_MESSAGE_BYTES:
            return text
        document["probes"] = [encode(probe) for probe in self.probes if not probe.ok]
        for length in (1000, 300, 100, 30):
            if len(text := json.dumps(_cut(document, length))) <= TERMINATION_MESSAGE_BYTES:
                break
        return text

    def text(self) -> str:
        head = f"smoke test of {self.name}: {'passed' if self.ok else 'FAILED'} in {self.seconds:.1f} s"
        lines = [head]
        if self.subject:
            lines.append(f"  subject   {self.subject}")
        if self.url:
            waited = "" if self.ready_seconds is None else f" (ready after {self.ready_seconds:.1f} s)"
            lines.append(f"  service   {self.url}{waited}")
        for probe in self.probes:
            attempts = "1 attempt" if probe.attempts == 1 else f"{probe.attempts} attempts"
            lines.append(f"  {'ok  ' if probe.ok else 'FAIL'}  {probe.name}: {probe.status or 'no answer'}, "
                         f"{probe.seconds:.2f} s, {attempts}")  # fmt: skip
            if probe.answer is not None or not probe.ok:
                lines.append(f"        asked   {probe.request}")
            if probe.answer is not None:
                lines.append(f"        answer  {json.dumps(probe.answer, ensure_ascii=False)}")
        if self.error:
            lines.append("  " + self.error.replace("\n", "\n  "))
        return "\n".join(lines)

    def raise_for_failure(self) -> None:
        """Raises UserError with the whole text where the test failed."""
        if not self.ok:
            raise UserError(self.text())


def _cut(value: Json, length: int) -> Json:
    if isinstance(value, dict):
        return {key: _cut(item, length) for key, item in value.items()}
    if isinstance(value, list):
        return [_cut(item, length) for item in value]
    if isinstance(value, str) and len(value) > length:
        return value[:length] + "…"
    return value
