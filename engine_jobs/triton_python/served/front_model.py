"""The Triton model that callers of `infer` and `generate` ask (`<name>`): it hands every prompt to `<name>_stream` and answers whole.

It is what the tutorial calls the model: `instance_group`, `max_batch_size` and `dynamic_batching` say how many requests are on
their way at once. Its processes are small, for the weights are the engine's. No torch here.
"""

import json
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.triton_python.served.door import Questions
from engine_jobs.triton_python.served.generation import Failure
from engine_jobs.triton_python.served.parameters import (
    INPUTS,
    TEXT_INPUT,
    check_request_parameters,
    one_prompt_each,
)

CANCEL_POLL_SECONDS: Final = 0.05


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.engine = config["parameters"]["engine"]["string_value"]
        self.output = config["output"][0]["name"]
        self.batched = config.get("max_batch_size", 0) > 0

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        """All prompts of all requests at once; returns when the last one has its answer, as a batch does."""
        answers: list[Any] = [None] * len(requests)
        texts: list[list[str]] = [[] for _ in requests]
        shapes: list[tuple[int, ...]] = [() for _ in requests]
        questions = Questions(self.engine)
        for number, request in enumerate(requests):
            try:
                check_request_parameters(request.parameters())
                asked, shapes[number] = self._prompts(request)
                texts[number] = [""] * len(asked)
                for place, tensors in enumerate(asked):
                    questions.ask((number, place), tensors)
            except UserError as error:
                answers[number] = _failure(str(error), Failure.REQUEST)
        while keys := questions.keys():
            found = questions.take(CANCEL_POLL_SECONDS)
            for (number, place), answer in found:
                if "text" in answer:
                    texts[number][place] = answer["text"]
                elif answers[number] is None:
                    answers[number] = _failure(answer["error"], Failure(answer.get("why", Failure.ENGINE)))
            for number in {number for number, _ in keys} if not found else ():
                if requests[number].is_cancelled():
                    answers[number] = _failure("the request was cancelled", Failure.CANCELLED)
            # A request that has failed needs the rest of its answers no more.
            for key in keys:
                if answers[key[0]] is not None:
                    questions.drop(key)
        return [answer or self._answer(text, shape) for answer, text, shape in zip(answers, texts, shapes, strict=True)]

    def _prompts(self, request: Any) -> tuple[list[dict[str, list[Any]]], tuple[int, ...]]:
        """The tensors of each prompt, and the shape that the answers take."""
        tensors = {
            name: tensor.as_numpy()
            for name in (TEXT_INPUT, *INPUTS)
            if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
        }
        return one_prompt_each({name: each.tolist() for name, each in tensors.items()}, self.batched), tensors[
            TEXT_INPUT
        ].shape

    def _answer(self, texts: Sequence[str], shape: tuple[int, ...]) -> Any:
        values = np.array([text.encode() for text in texts], dtype=np.object_).reshape(shape)
        return pb_utils.InferenceResponse([pb_utils.Tensor(self.output, values)])


def _failure(message: str, why: Failure) -> Any:
    codes = {
        Failure.REQUEST: pb_utils.TritonError.INVALID_ARG,
        Failure.CANCELLED: pb_utils.TritonError.CANCELLED,
        Failure.ENGINE: pb_utils.TritonError.INTERNAL,
    }
    return pb_utils.InferenceResponse(error=pb_utils.TritonError(message, codes[why]))
