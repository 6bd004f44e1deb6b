"""The Triton model that holds the weights: decoupled, so that it streams and batches in flight (`<name>_stream`).

Triton imports this file as the model's model.py; `engine_jobs` lies beside it. The engine does the work on its own threads,
`execute` only hands requests in.
"""

import json
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.triton_python.served.door import Asker, Door
from engine_jobs.triton_python.served.engine import Engine
from engine_jobs.triton_python.served.generation import Caller, Failure, Generation
from engine_jobs.triton_python.served.loading import Loaded, Options, load
from engine_jobs.triton_python.served.metrics import Metrics
from engine_jobs.triton_python.served.parameters import (
    INPUTS,
    STREAM,
    TEXT_INPUT,
    Defaults,
    check_request_parameters,
    read_parameters,
    read_prompt,
    tokens_to_generate,
)
from engine_jobs.triton_python.served.text import TextStream
from engine_jobs.triton_python.served.watch import Watch


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        """Triton reports a failure as the model's reason for not being ready."""
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config.get("parameters", {}).items()}
        self.name = args["model_name"]
        self.output = config["output"][0]["name"]
        folder = Path(__file__).resolve().parent / parameters.get("checkpoint", "checkpoint")
        on_gpu = args["model_instance_kind"] == "GPU"
        options = Options.read(parameters, f"cuda:{args['model_instance_device_id']}" if on_gpu else "cpu")
        try:
            self.loaded = load(folder, options, self._log, self._warn)
        except UserError as error:
            raise pb_utils.TritonModelException(f"{self.name}: {error}") from None
        limit = parameters.get("max_output_length")
        self.defaults = Defaults(
            max_tokens=int(parameters.get("max_tokens", "16")),
            max_output_length=int(limit) if limit else None,
            max_length=self.loaded.max_length,
            exclude_input=parameters.get("exclude_input_in_output", "false") == "true",
            vocabulary=self.loaded.vocabulary,
        )
        self.engine = Engine(self.loaded.make_scheduler, self._engine_failed)
        self.metrics = Metrics(
            self.name, args.get("model_version", "1"), self.loaded.batching, lambda: self.engine.counts
        )
        self.door = Door(self.name, self._asked)
        self.watch = Watch(self.name)
        self._log(
            f"{self.loaded.batching} batching, {options.max_sequences} sequences of {self.loaded.max_length} tokens"
        )

    def execute(self, requests: Sequence[Any]) -> None:
        for request in requests:
            caller = _Streamed(request.get_response_sender(), self.output)
            try:
                check_request_parameters(request.parameters())
                tensors = {
                    name: tensor.as_numpy().reshape(-1)
                    for name in (TEXT_INPUT, STREAM, *INPUTS)
                    if (tensor := pb_utils.get_input_tensor_by_name(request, name)) is not None
                }
            except UserError as error:
                caller.fail(str(error), Failure.REQUEST)
            else:
                self._submit(tensors, caller)

    def _asked(self, tensors: Mapping[str, Sequence[Any]], asker: Asker) -> None:
        """A question of the front."""
        self._submit(tensors, _Asked(asker))

    def finalize(self) -> None:
        self.watch.dismiss()
        self.door.close()
        self.metrics.stop()
        self.engine.stop()

    def _submit(self, tensors: Mapping[str, Sequence[Any]], caller: Caller) -> None:
        try:
            prompt = read_prompt(tensors)
            parameters = read_parameters(tensors, self.defaults)
            ids = tokenize(self.loaded, prompt)
            generation = Generation(
                prompt=ids,
                parameters=parameters,
                max_tokens=tokens_to_generate(parameters, len(ids), self.defaults),
                end_ids=self.loaded.end_ids,
                text=TextStream(self._decode, ids, parameters.stop_words),
                caller=caller,
                included="" if parameters.exclude_input else prompt,
            )
        except UserError as error:
            caller.fail(str(error), Failure.REQUEST)
        except Exception as error:
            caller.fail(f"{type(error).__name__}: {error}", Failure.ENGINE)
        else:
            self.engine.submit(generation)

    def _decode(self, ids: Sequence[int]) -> str:
        text: str = self.loaded.tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
        return text

    def _engine_failed(self, error: Exception) -> None:
        pb_utils.Logger.log_error(f"{self.name}: {type(error).__name__}: {error}")
        if is_device_lost(error):
            # Nothing on this device works from here on; with this process the server ends and is started again (watch.py).
            pb_utils.Logger.log_error(f"{self.name}: the GPU's context is lost, so this process ends")
            os._exit(1)

    def _log(self, text: str) -> None:
        pb_utils.Logger.log_info(f"{self.name}: {text}")

    def _warn(self, text: str) -> None:
        pb_utils.Logger.log_warn(f"{self.name}: {text}")


class _Streamed:
    """A `Caller` (generation.py) behind Triton's response sender."""

    def __init__(self, sender: Any, output: str) -> None:
        self._sender = sender
        self._output = output

    def send(self, text: str, *, last: bool) -> None:
        tensor = pb_utils.Tensor(self._output, np.array([text.encode()], dtype=np.object_))
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL if last else 0
        self._sender.send(pb_utils.InferenceResponse([tensor]), flags=final)

    def fail(self, message: str, why: Failure) -> None:
        codes = {
            Failure.REQUEST: pb_utils.TritonError.INVALID_ARG,
            Failure.CANCELLED: pb_utils.TritonError.CANCELLED,
            Failure.ENGINE: pb_utils.TritonError.INTERNAL,
        }
        response = pb_utils.InferenceResponse(error=pb_utils.TritonError(message, codes[why]))
        self._sender.send(response, flags=pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL)

    def is_cancelled(self) -> bool:
        return bool(self._sender.is_cancelled())


class _Asked:
    """A `Caller` (generation.py) behind the front's connection. It never streams."""

    def __init__(self, asker: Asker) -> None:
        self._asker = asker
        self._text = ""

    def send(self, text: str, *, last: bool) -> None:
        self._text += text
        if last:
            self._asker.answer({"text": self._text})

    def fail(self, message: str, why: Failure) -> None:
        self._asker.answer({"error": message, "why": why.value})

    def is_cancelled(self) -> bool:
        return self._asker.is_gone()


def tokenize(loaded: Loaded, prompt: str) -> list[int]:
    """Raises UserError for a prompt of which no token comes, not even the one that begins a text."""
    ids: list[int] = loaded.tokenizer(prompt)["input_ids"] if prompt else []
    if not ids:
        raise UserError(f"{TEXT_INPUT}: the prompt is empty; there is nothing to go on from")
    return ids


def is_device_lost(error: Exception) -> bool:
    """Whether a CUDA error has made the whole process's context useless. Running out of memory has not."""
    import torch

    if not torch.cuda.is_initialized() or isinstance(error, torch.cuda.OutOfMemoryError):
        return False
    try:
        torch.cuda.synchronize()
    except RuntimeError:
        return True
    return False
