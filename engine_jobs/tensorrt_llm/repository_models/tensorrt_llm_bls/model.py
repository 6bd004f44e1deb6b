"""Triton Python-backend model `tensorrt_llm_bls` of the inflight_batcher_llm repository: preprocessing, the engine's model and
postprocessing in one, called from here (business logic scripting), with exact text where the answer streams."""

import json
import secrets
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.bls_request import (
    engine_inputs,
    joined,
    preprocessing_inputs,
    preprocessing_outputs,
    request_rows,
    stop_inputs,
)
from engine_jobs.tensorrt_llm.repository_models.parameters import flag, read_parameters
from engine_jobs.tensorrt_llm.repository_models.tensors import bytes_tensor, padded
from engine_jobs.tensorrt_llm.repository_models.text_stream import TextStream

ROWS_AT_ONCE = 128
"""How many rows are under way at once, each in a thread that mostly waits; more wait for their turn."""

CANCELLATION_PERIOD_S = 0.1
"""How often a client that hung up is looked for: the default of the backend's own cancellation_check_period_ms."""


class ModelError(Exception):
    """One of the models that this one calls has refused."""

    def __init__(self, error: Any) -> None:
        super().__init__(error.message())
        self.code = error.code()


class Cancelled(Exception):
    """The client has hung up."""


class TritonPythonModel:
    """Decoupled: each request's answers are sent as they come, from a thread of its own, many at once. Plain: one answer a request,
    and Triton gives an instance the next request when it has it: there bls_instance_count is how many run at once."""

    def initialize(self, args: dict[str, str]) -> None:
        try:
            parameters = read_parameters(args["model_config"])
            self.accumulate_tokens = flag(parameters, "accumulate_tokens", False)
        except UserError as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None
        self.engine_model = parameters.get("tensorrt_llm_model_name", "tensorrt_llm")
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))
        self.pool = ThreadPoolExecutor(ROWS_AT_ONCE, thread_name_prefix="row")
        self.running: set[Run] = set()
        self.closing = threading.Event()
        self.watch = threading.Thread(target=self._watch, name="cancellation", daemon=True)
        self.watch.start()

    def execute(self, requests: Sequence[Any]) -> list[Any] | None:
        if self.decoupled:
            for request in requests:
                self._stream(request)
            return None
        return [answer() for answer in [self._start(request) for request in requests]]

    def finalize(self) -> None:
        self.closing.set()
        self.watch.join()
        self.pool.shutdown()

    def _stream(self, request: Any) -> None:
        """Starts the rows of a decoupled request; the last of them ends it."""
        sender, wanted = request.get_response_sender(), _wanted(request)
        try:
            rows = request_rows(_copied(request), decoupled=True)
        except UserError as error:
            sender.send(_refusal(error), flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)
            return
        left = threading.Semaphore(len(rows) - 1)

        def send(index: int, row: dict[str, np.ndarray[Any, Any]]) -> None:
            run = Run(self, row, wanted, sender.is_cancelled)
            try:
                for made in run.answers():
                    if len(rows) > 1 and "batch_index" in wanted:
                        made["batch_index"] = np.full((1, 1), index, dtype=np.int32)
                    sender.send(_response(made))
            except Exception as error:
                sender.send(_refusal(error))
            finally:
                if not left.acquire(blocking=False):
                    sender.send(flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

        for index, row in enumerate(rows):
            self.pool.submit(send, index, row)

    def _start(self, request: Any) -> Callable[[], Any]:
        """Starts the rows of a plain request; what it returns waits for its one answer."""
        wanted = _wanted(request)
        try:
            rows = request_rows(_copied(request), decoupled=False)
        except UserError as error:
            refusal = _refusal(error)
            return lambda: refusal
        runs = [Run(self, row, wanted, request.is_cancelled) for row in rows]
        under_way = [self.pool.submit(run.answer) for run in runs]

        def answer() -> Any:
            try:
                return _response(joined([each.result() for each in under_way]))
            except Exception as error:
                return _refusal(error)

        return answer

    def _watch(self) -> None:
        while not self.closing.wait(CANCELLATION_PERIOD_S):
            for run in tuple(self.running):
                run.stop_if_cancelled()


class Run:
    """One row on its way through the three models. Its id is the engine's model's too, so that it can be stopped there."""

    def __init__(
        self,
        model: TritonPythonModel,
        row: Mapping[str, np.ndarray[Any, Any]],
        wanted: frozenset[str],
        is_cancelled: Callable[[], bool],
    ) -> None:
        self.model = model
        self.row = row
        self.wanted = wanted
        self.is_cancelled = is_cancelled
        self.id = str(secrets.randbits(62) + 1)
        self.stopping = False
        self.ended = False
        # Triton 2.51 ends with a segmentation fault when a request is asked about that has been answered.
        self.asking = threading.Lock()

    def answers(self) -> Iterator[dict[str, Any]]:
        """The answers' tensors, text_output BYTES[1,beams] among them. Raises ModelError, UserError and Cancelled."""
        names = preprocessing_outputs(self.row)
        (prepared,) = _call("preprocessing", preprocessing_inputs(self.row), tuple(names))
        inputs = engine_inputs(self.row, prepared)
        outputs = ("output_ids", "sequence_length", *(self.wanted - {"text_output"}))
        if self.is_cancelled():
            raise Cancelled
        self.model.running.add(self)
        try:
            answers = _call(
                self.model.engine_model, inputs, outputs, request_id=self.id, decoupled=self.model.decoupled
            )
            yield from self._told(answers, streams="stream" in self.row and bool(np.any(self.row["stream"])))
        finally:
            self.model.running.discard(self)
            with self.asking:
                self.ended = True
        if self.stopping:
            raise Cancelled

    def answer(self) -> dict[str, Any]:
        """The one answer of a row that does not stream. Raises as `answers`."""
        answers = list(self.answers())
        if len(answers) != 1:
            raise UserError(f"{self.model.engine_model} gave {len(answers)} answers to a request that takes one")
        return answers[0]

    def stop_if_cancelled(self) -> None:
        """Called from the watching thread: tells the engine's model, whose next answer to this row is then its last."""
        with self.asking:
            if self.ended or self.stopping or not self.is_cancelled():
                return
            self.stopping = True
        try:
            list(
                _call(
                    self.model.engine_model,
                    stop_inputs(),
                    ("output_ids",),
                    request_id=self.id,
                    decoupled=self.model.decoupled,
                )
            )
        except ModelError as error:
            pb_utils.Logger.log_warn(f"request {self.id} could not be stopped: {error}")

    def _told(self, answers: Iterator[dict[str, Any]], *, streams: bool) -> Iterator[dict[str, Any]]:
        sequences: dict[int, TextStream] = {}
        for answer in answers:
            tokens, lengths = answer.pop("output_ids", None), answer.pop("sequence_length", None)
            if tokens is None or self.stopping:
                continue
            if not streams or tokens.shape[1] != 1:
                yield answer | {"text_output": _postprocessed(tokens, lengths)}
                continue
            index = int(answer["sequence_index"].reshape(-1)[0]) if "sequence_index" in answer else 0
            text = sequences.setdefault(index, TextStream(_decode))
            piece = text.feed(tokens[0, 0, : int(lengths.reshape(-1)[0])].tolist())
            yield answer | {"text_output": bytes_tensor([[text.text if self.model.accumulate_tokens else piece]])}
        for index, text in sequences.items():
            if rest := text.finish():
                said = (
                    {"sequence_index": np.full((1, 1), index, dtype=np.int32)}
                    if "sequence_index" in self.wanted
                    else {}
                )
                yield said | {"text_output": bytes_tensor([[text.text if self.model.accumulate_tokens else rest]])}


def _call(
    model: str,
    inputs: Mapping[str, np.ndarray[Any, Any]],
    outputs: Sequence[str],
    *,
    request_id: str = "",
    decoupled: bool = False,
) -> Iterator[dict[str, Any]]:
    """Another model's answers, each as its tensors by name: numpy arrays, but what lies on a GPU as Triton's own. Raises ModelError."""
    request = pb_utils.InferenceRequest(
        request_id=request_id,
        model_name=model,
        requested_output_names=list(outputs),
        inputs=[pb_utils.Tensor(name, np.ascontiguousarray(value)) for name, value in inputs.items()],
    )
    answered = request.exec(decoupled=decoupled)
    for response in answered if decoupled else (answered,):
        if response.has_error():
            raise ModelError(response.error())
        tensors = response.output_tensors()
        if tensors:
            yield {tensor.name(): tensor.as_numpy() if tensor.is_cpu() else tensor for tensor in tensors}


def _postprocessed(tokens: Any, lengths: Any) -> Any:
    (answer,) = _call("postprocessing", {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": lengths}, ("OUTPUT",))
    return answer["OUTPUT"]


def _decode(sequences: Sequence[Sequence[int]]) -> list[str]:
    lengths = np.array([[len(ids) for ids in sequences]], dtype=np.int32)
    return [bytes(text).decode() for text in _postprocessed(padded(sequences, 0)[None], lengths).reshape(-1)]


def _wanted(request: Any) -> frozenset[str]:
    return frozenset(request.requested_output_names())


def _copied(request: Any) -> dict[str, np.ndarray[Any, Any]]:
    """The request's tensors, to keep after it is gone."""
    return {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}


def _response(tensors: Mapping[str, Any]) -> Any:
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor(name, value)
            if isinstance(value, np.ndarray)
            else pb_utils.Tensor.from_dlpack(name, value.to_dlpack())
            for name, value in tensors.items()
        ]
    )


def _refusal(error: Exception) -> Any:
    if isinstance(error, Cancelled):
        told = pb_utils.TritonError("the client has hung up", pb_utils.TritonError.CANCELLED)
    elif isinstance(error, ModelError):
        told = pb_utils.TritonError(str(error), error.code)
    elif isinstance(error, UserError):
        told = pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG)
    else:
        pb_utils.Logger.log_error(f"{type(error).__name__}: {error}")
        told = pb_utils.TritonError(f"{type(error).__name__}: {error}", pb_utils.TritonError.INTERNAL)
    return pb_utils.InferenceResponse(error=told)
