"""Which of a smoke test's probes is the load, and what is asked where in it. Standard library only."""

import dataclasses
from collections.abc import Sequence
from typing import Any

from engine_jobs.errors import UserError
from engine_jobs.load.spec import Workload
from engine_jobs.smoke_test.decode import Json
from engine_jobs.smoke_test.spec import GrpcProbe, HttpProbe


def choose_probe(probes: Sequence[HttpProbe | GrpcProbe], name: str | None = None) -> HttpProbe | GrpcProbe:
    """The probe of this name, or the last that POSTs a question and looks at the answer. Raises UserError, which names those that
    can be a load."""
    able = [
        probe
        for probe in probes
        if (isinstance(probe, GrpcProbe) and probe.inputs)
        or (isinstance(probe, HttpProbe) and probe.method == "POST" and probe.answer is not None)
    ]
    names = ", ".join(repr(probe.name) for probe in able) or "none"
    if name is not None:
        named = [probe for probe in able if probe.name == name]
        if not named:
            raise UserError(f"no probe {name!r} that asks a question; those of this smoke test: {names}")
        return named[-1]
    questions = [probe for probe in able if isinstance(probe, HttpProbe)] or able
    if not questions:
        raise UserError("no probe of this smoke test asks a question, so there is nothing to measure")
    return questions[-1]


def with_values(workload: Workload, values: Sequence[tuple[str, Json]]) -> Workload:
    """The workload with other values at JSON pointers of its body; another request has another answer, so no text is expected.
    Raises UserError where there is no such place, or no JSON body."""
    if not values:
        return workload
    if not isinstance(workload.probe, HttpProbe):
        raise UserError(f"{workload.name}: --set changes a JSON body, and this workload asks over gRPC")
    body = workload.probe.body
    for pointer, value in values:
        body = replaced(body, pointer, value)
    return dataclasses.replace(workload, probe=dataclasses.replace(workload.probe, body=body, expect_text=None))


def requests(workload: Workload) -> list[HttpProbe | GrpcProbe]:
    """The probes to ask in turn: the workload's own, or one for each of its prompts. Raises UserError where its `prompt` is
    no place in the request."""
    if not workload.prompts:
        return [workload.probe]
    place = workload.prompt
    assert place is not None
    if isinstance(workload.probe, HttpProbe):
        return [
            dataclasses.replace(workload.probe, body=replaced(workload.probe.body, place, text), expect_text=None)
            for text in workload.prompts
        ]
    if place not in {tensor.name for tensor in workload.probe.inputs if tensor.datatype == "BYTES"}:
        raise UserError(f"{workload.name}: the request has no BYTES tensor {place!r} to put a prompt into")
    return [_with_text(workload.probe, place, text) for text in workload.prompts]


def prompts_of(workload: Workload) -> tuple[str, ...]:
    """The texts that are asked, as far as they are known."""
    if workload.prompts or workload.prompt is None:
        return workload.prompts
    if isinstance(workload.probe, HttpProbe):
        text = found(workload.probe.body, workload.prompt)
        return (text,) if isinstance(text, str) else ()
    return tuple(str(each.data[0]) for each in workload.probe.inputs if each.name == workload.prompt)


def _with_text(probe: GrpcProbe, tensor: str, text: str) -> GrpcProbe:
    inputs = tuple(
        dataclasses.replace(each, data=(text,) * len(each.data)) if each.name == tensor else each
        for each in probe.inputs
    )
    return dataclasses.replace(probe, inputs=inputs, expect_output=None)


def replaced(document: Json, pointer: str, value: Json) -> Json:
    """A copy of the document with `value` at the JSON pointer (RFC 6901), whose last key may be new. Raises UserError where
    the document has no such place."""
    if not pointer:
        return value
    head, _, rest = pointer.removeprefix("/").partition("/")
    key = head.replace("~1", "/").replace("~0", "~")
    tail = f"/{rest}" if rest or pointer.removeprefix("/").endswith("/") else ""
    if isinstance(document, dict) and (key in document or not tail):
        return {**document, key: replaced(document.get(key), tail, value)}
    if isinstance(document, list) and key.isdecimal() and int(key) < len(document):
        copy = list(document)
        copy[int(key)] = replaced(document[int(key)], tail, value)
        return copy
    raise UserError(f"the request's body has no {key!r} to follow {pointer!r} to")


def found(document: Json, pointer: str) -> Json:
    """What is at the JSON pointer, or None."""
    for token in pointer.split("/")[1:]:
        key = token.replace("~1", "/").replace("~0", "~")
        if isinstance(document, dict) and key in document:
            document = document[key]
        elif isinstance(document, list) and key.isdecimal() and int(key) < len(document):
            document = document[int(key)]
        else:
            return None
    return document


def pointer_to(document: Json, text: str) -> str | None:
    """The JSON pointer of the first string that equals `text`, or None."""
    items: Any = (
        document.items() if isinstance(document, dict) else enumerate(document) if isinstance(document, list) else ()
    )
    if document == text:
        return ""
    for key, value in items:
        found = pointer_to(value, text)
        if found is not None:
            return "/" + str(key).replace("~", "~0").replace("/", "~1") + found
    return None
