"""One request to `tensorrt_llm` over Triton's gRPC stream, which serves decoupled models and plain ones alike."""

import queue
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import tritonclient.grpc as triton

from engine_jobs.errors import UserError

TENSORS: Mapping[str, tuple[str, str]] = {
    "temperature": ("temperature", "FP32"),
    "repetition_penalty": ("repetition_penalty", "FP32"),
    "presence_penalty": ("presence_penalty", "FP32"),
    "frequency_penalty": ("frequency_penalty", "FP32"),
    "top_k": ("runtime_top_k", "INT32"),
    "top_p": ("runtime_top_p", "FP32"),
}
"""A flag's tensor and its type, each [1,1]."""

NUMPY_TYPES = {"INT32": np.int32, "FP32": np.float32, "BOOL": np.bool_}


@dataclass(frozen=True, kw_only=True)
class Connection:
    """`url` is host:port; `authority` the host to ask for at a gateway."""

    url: str
    model: str
    authority: str | None = None
    timeout_s: float | None = None
    ssl: bool = False
    root_certificates: str | None = None
    private_key: str | None = None
    certificate_chain: str | None = None

    def client(self) -> Any:
        options = [("grpc.default_authority", self.authority)] if self.authority else None
        try:
            return triton.InferenceServerClient(
                self.url,
                ssl=self.ssl,
                root_certificates=self.root_certificates,
                private_key=self.private_key,
                certificate_chain=self.certificate_chain,
                channel_args=options,
            )
        except OSError as error:
            raise UserError(f"{error.filename or self.url}: {error.strerror or error}") from error


@dataclass(frozen=True, kw_only=True)
class Sampling:
    """`options`: values of TENSORS that are sent; the model's defaults hold for the others."""

    request_output_len: int
    end_id: int
    pad_id: int
    streaming: bool = False
    beam_width: int = 1
    options: Mapping[str, float] = field(default_factory=dict)


@dataclass(kw_only=True)
class Generated:
    """`beams`: the ids of each, the prompt among them where the server repeats it."""

    beams: list[list[int]] = field(default_factory=list)
    responses: int = 0
    first_token_s: float | None = None
    cancelled: bool = False

    def without_prompt(self, ids: Sequence[int]) -> list[list[int]]:
        """The beams without the prompt that a server may begin its answer with (exclude_input_in_output: false)."""
        return [beam[len(ids) :] if beam[: len(ids)] == list(ids) else beam for beam in self.beams]


def inputs(ids: Sequence[int], sampling: Sampling) -> list[Any]:
    """The request's tensors, one row."""
    values: list[tuple[str, str, Any]] = [
        ("input_ids", "INT32", list(ids)),
        ("input_lengths", "INT32", [len(ids)]),
        ("request_output_len", "INT32", [sampling.request_output_len]),
        ("end_id", "INT32", [sampling.end_id]),
        ("pad_id", "INT32", [sampling.pad_id]),
    ]
    if sampling.streaming:
        values.append(("streaming", "BOOL", [True]))
    if sampling.beam_width > 1:
        values.append(("beam_width", "INT32", [sampling.beam_width]))
    values += [(*TENSORS[name], [value]) for name, value in sampling.options.items()]
    made = []
    for name, data_type, value in values:
        array = np.array([value], dtype=NUMPY_TYPES[data_type])
        made.append(triton.InferInput(name, list(array.shape), data_type))
        made[-1].set_data_from_numpy(array)
    return made


def ask(
    connection: Connection,
    ids: Sequence[int],
    sampling: Sampling,
    *,
    request_id: str = "",
    stop_after_s: float = 0.0,
    told: Callable[[list[int]], None] = lambda _: None,
) -> Generated:
    """Blocks until the last response; `told` gets each response's tokens of the first beam. `stop_after_s` above 0 cancels the
    request then. Raises UserError for what the server says, and where there is none."""
    start = time.monotonic()
    end = start + stop_after_s if stop_after_s > 0 else None
    answers: queue.Queue[Any] = queue.Queue()
    answer = Generated()
    client = connection.client()
    try:
        client.start_stream(lambda result, error: answers.put(error or result), stream_timeout=connection.timeout_s)
        try:
            client.async_stream_infer(
                connection.model, inputs(ids, sampling), request_id=request_id, enable_empty_final_response=True
            )
        except triton.InferenceServerException as error:  # no connection: the stream's own words say why
            answers.put(error)
        while True:
            try:
                result = answers.get(timeout=None if end is None else max(end - time.monotonic(), 0.001))
            except queue.Empty:
                answer.cancelled = True
                break
            if isinstance(result, Exception):
                raise UserError(f"{connection.url}: model {connection.model}: {_words(result)}")
            tokens = _add(answer, result, streaming=sampling.streaming)
            if tokens and answer.first_token_s is None:
                answer.first_token_s = time.monotonic() - start
            told(tokens)
            if result.get_response().parameters["triton_final_response"].bool_param:
                break
    finally:
        client.stop_stream(cancel_requests=answer.cancelled)
        client.close()
    return answer


def _add(answer: Generated, result: Any, *, streaming: bool) -> list[int]:
    ids, lengths = result.as_numpy("output_ids"), result.as_numpy("sequence_length")
    if ids is None or lengths is None:
        return []
    answer.responses += 1
    beams = [beam[:length].tolist() for beam, length in zip(ids[0], lengths[0], strict=True)]
    if streaming and answer.beams:
        answer.beams = [before + new for before, new in zip(answer.beams, beams, strict=True)]
    else:
        answer.beams = beams
    return beams[0] if beams else []


def _words(error: Exception) -> str:
    if not isinstance(error, triton.InferenceServerException):
        return str(error)
    return f"{error.message()} ({error.status()})" if error.status() else str(error.message())
