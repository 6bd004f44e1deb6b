"""Triton Python-backend model with the name, tensors, parameters and engine folder of TensorRT-LLM's: the CPU stand-in.

Triton imports this file from the model's version folder, together with the modules that it imports (`version_files`). Requests are
batched in flight, decoupled or not.
"""

import json
import os
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.batcher import Cancelled, Job
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Generation
from engine_jobs.tensorrt_llm.cpu_stand_in.reply import Outputs, Reply
from engine_jobs.tensorrt_llm.cpu_stand_in.server import Options, Server, every
from engine_jobs.tensorrt_llm.cpu_stand_in.tensors import Rows, read_requests
from engine_jobs.tensorrt_llm.repository_models.parameters import read_parameters

FINAL = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL


class TritonPythonModel:
    """One engine for all requests."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the engine of the parameter `gpt_model_path`; Triton reports a failure as the model's reason."""
        name = args["model_name"]
        pb_utils.Logger.log_warn(
            f"{name}: this is the CPU stand-in of TensorRT-LLM's backend. It reads the same folders and answers through the "
            "same tensors with numpy, in fp32; it says nothing about a GPU's speed."
        )
        self.running: dict[str, list[Reply]] = {}
        try:
            self.options = Options.read(read_parameters(args["model_config"]))
            self.decoupled = pb_utils.using_decoupled_model_transaction_policy(json.loads(args["model_config"]))
            self.server = Server(
                self.options,
                os.environ.get("TRTLLM_STAND_IN_VERSION"),
                lambda error: pb_utils.Logger.log_error(f"{name}: {type(error).__name__}: {error}"),
            )
        except UserError as error:
            raise pb_utils.TritonModelException(f"CPU stand-in: {error}") from None
        config, limits = self.server.engine.pretrained, self.server.engine.limits
        pb_utils.Logger.log_info(
            f"{name}: {config['num_hidden_layers']} layers, hidden size {config['hidden_size']}, vocabulary "
            f"{config['vocab_size']}, {config['dtype']}, tensor parallel {config['mapping']['tp_size']}, from "
            f"{self.options.engine_dir} (TensorRT-LLM {self.server.engine.version}); {limits}"
        )

    def execute(self, requests: Sequence[Any]) -> None:
        """Takes the requests into the running batch; each is answered through its own sender."""
        for request in requests:
            sender = request.get_response_sender()
            try:
                self._take(request, sender)
            except UserError as error:
                _fail(sender, error)
            except Exception as error:  # One request's bad luck must not be that of those beside it.
                pb_utils.Logger.log_error(f"{type(error).__name__}: {error}")
                _fail(sender, error)

    def finalize(self) -> None:
        self.server.close()

    def _take(self, request: Any, sender: Any) -> None:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        if "stop" in tensors and tensors["stop"].any():
            self._stop(request.request_id())
            sender.send(flags=FINAL) if self.decoupled else _fail(sender, UserError("stop needs a decoupled model."))
            return
        asked = [self.server.capacity.admit(each) for each in read_requests(tensors, self.server.model.vocabulary)]
        rows = Rows(tensors, len(asked))
        streaming = any(rows.switches("streaming"))
        if streaming and not self.decoupled:
            raise UserError(
                "streaming needs a model with the decoupled transaction policy (decoupled_mode: true); ask without it."
            )
        if streaming and any(each.beams > 1 for each in asked):
            raise UserError("streaming goes with a beam_width of 1.")
        reply = Reply(
            generations=[Generation(self.server.model, each) for each in asked],
            send=partial(_send, sender, set(request.requested_output_names())),
            fail=partial(_fail, sender),
            decoupled=self.decoupled,
            streaming=streaming,
            with_prompt=not any(rows.switches("exclude_input_in_output", self.options.exclude_input)),
            with_log_probs=rows.switches("return_log_probs"),
            fillings=[
                pad if pad >= 0 else max(each.end_id, 0)
                for pad, each in zip(rows.integers("pad_id", -1), asked, strict=True)
            ],
        )
        self._remember(request.request_id(), reply)
        cancelled = every(self.options.cancellation_check_seconds, sender.is_cancelled)
        self.server.add(
            [
                Job(
                    generation=generation,
                    cancelled=lambda: reply.ended or reply.stopped or cancelled(),
                    changed=partial(reply.changed, row),
                    failed=reply.failed,
                )
                for row, generation in enumerate(reply.generations)
            ]
        )

    def _remember(self, name: str, reply: Reply) -> None:
        """By the request's id, for a later `stop`."""
        self.running = {each: left for each, all in self.running.items() if (left := [r for r in all if not r.ended])}
        if name:
            self.running.setdefault(name, []).append(reply)

    def _stop(self, name: str) -> None:
        for reply in self.running.pop(name, []):
            reply.stopped = True


def _send(sender: Any, wanted: set[str], outputs: Outputs | None, last: bool) -> None:
    flags = FINAL if last else 0
    if outputs is None:
        sender.send(flags=flags)
        return
    tensors = [pb_utils.Tensor(name, value) for name, value in outputs.items() if name in wanted]
    sender.send(pb_utils.InferenceResponse(tensors), flags=flags)


def _fail(sender: Any, error: Exception) -> None:
    kind = pb_utils.TritonError.INTERNAL
    if isinstance(error, UserError):
        kind = pb_utils.TritonError.INVALID_ARG
    elif isinstance(error, Cancelled):
        kind = pb_utils.TritonError.CANCELLED
    sender.send(pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), kind)), flags=FINAL)
