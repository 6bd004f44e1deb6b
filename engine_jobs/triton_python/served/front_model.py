"""The Triton model that callers of `infer` and `generate` ask (`<name>`): it hands every prompt to `<name>_stream` and answers whole.

It is what the tutorial calls the model: `instance_group`, `max_batch_size` and `dynamic_batching` say how many requests are on
their way at once. Its processes are small, for the weights are the engine's. No torch here.
"""

import concurrent.futures
import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.triton_python.served.cancellation import CancelFlags
from engine_jobs.triton_python.served.parameters import (
    CANCEL_FLAG,
    INPUTS,
    STOP_WORDS,
    STREAM,
    TEXT_INPUT,
    check_request_parameters,
)

CANCEL_POLL_SECONDS: Final = 0.05
AT_ONCE: Final = 256


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.engine = config["parameters"]["engine"]["string_value"]
        self.output = config["output"][0]["name"]
        self.batched = config.get("max_batch_size", 0) > 0
        self.flags = CancelFlags()
        self.pool = concurrent.futures.ThreadPoolExecutor(AT_ONCE, thread_name_prefix="ask")

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All prompts of all requests at once; each request's answer when its last prompt has one."""
        answers: list[Any] = [None] * len(requests)
        flags: dict[int, int] = {}
        waiting: dict[concurrent.futures.Future[bytes], tuple[int, int]] = {}
        texts: dict[int, list[bytes]] = {}
        shapes: dict[int, tuple[int, ...]] = {}
        for number, request in enumerate(requests):
            try:
                check_request_parameters(request.parameters())
                asked, shapes[number] = self._prompts(request)
            except UserError as error:
                answers[number] = _failure(str(error), pb_utils.TritonError.INVALID_ARG)
                continue
            flags[number], flag = self.flags.take()
            texts[number] = [b""] * len(asked)
            for place, inputs in enumerate(asked):
                waiting[self.pool.submit(self._ask, inputs, flag, request.request_id())] = (number, place)
        while waiting:
            done, _ = concurrent.futures.wait(waiting, CANCEL_POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in done:
                number, place = waiting.pop(future)
                try:
                    texts[number][place] = future.result()
                except _EngineError as error:
                    answers[number] = answers[number] or pb_utils.InferenceResponse(error=error.error)
                except Exception as error:
                    answers[number] = answers[number] or _failure(str(error), pb_utils.TritonError.INTERNAL)
            if not done:
                for number in {number for number, _ in waiting.values()}:
                    if requests[number].is_cancelled():
                        self.flags.raise_flag(flags[number])
        for number, flag_number in flags.items():
            self.flags.give_back(flag_number)
            if answers[number] is None:
                answer = np.array(texts[number], dtype=np.object_).reshape(shapes[number])
                answers[number] = pb_utils.InferenceResponse([pb_utils.Tensor(self.output, answer)])
        return answers

    def finalize(self) -> None:
        self.pool.shutdown(wait=True)
        self.flags.close()

    def _prompts(self, request: Any) -> tuple[list[list[Any]], tuple[int, ...]]:
        """The inputs of each prompt's own request to the engine, and the shape that the answers take."""
        prompts = pb_utils.get_input_tensor_by_name(request, TEXT_INPUT).as_numpy()
        count = prompts.size
        if not count:
            raise UserError(f"{TEXT_INPUT}: there is no prompt in it")
        made: list[list[Any]] = [[_tensor(TEXT_INPUT, [prompt])] for prompt in prompts.reshape(-1)]
        for name in INPUTS:
            found = pb_utils.get_input_tensor_by_name(request, name)
            if found is None:
                continue
            values = found.as_numpy()
            # Stop words are a list; of everything else each prompt has its own value, or all have the one.
            rows = (
                values
                if name == STOP_WORDS and self.batched
                else [values]
                if name == STOP_WORDS
                else values.reshape(-1)
            )
            if len(rows) not in (1, count):
                raise UserError(f"{name}: one value, or one for each of the {count} prompts; got {len(rows)}")
            for place, inputs in enumerate(made):
                inputs.append(_tensor(name, rows[place if len(rows) > 1 else 0]))
        for inputs in made:
            inputs.append(_tensor(STREAM, np.array([False])))
        return made, prompts.shape

    def _ask(self, inputs: list[Any], flag: str, request_id: str) -> bytes:
        request = pb_utils.InferenceRequest(
            model_name=self.engine,
            request_id=request_id,
            requested_output_names=[self.output],
            inputs=inputs,
            parameters={CANCEL_FLAG: flag},
        )
        text = b""
        for response in request.exec(decoupled=True):
            if response.has_error():
                raise _EngineError(response.error())
            if response.output_tensors():
                text += response.output_tensors()[0].as_numpy().reshape(-1)[0]
        return text


class _EngineError(Exception):
    def __init__(self, error: Any) -> None:
        super().__init__(str(error))
        self.error = error


def _tensor(name: str, values: Any) -> Any:
    if name in (TEXT_INPUT, STOP_WORDS):
        return pb_utils.Tensor(name, np.array(list(values), dtype=np.object_).reshape(-1))
    return pb_utils.Tensor(name, np.asarray(values).reshape(-1))


def _failure(message: str, code: Any) -> Any:
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, code))
