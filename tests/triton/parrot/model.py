"""A `tensorrt_llm` for tests: says the prompt again, token by token, so many milliseconds a token (`min_length`, else the parameter).
A prompt's first tokens (the BOS where there is one; parameter `skip`) are left out. `stop` ends the running request of the same id, as in
TensorRT-LLM's backend."""

import json
import threading
import time
from typing import Any

import numpy as np
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: dict[str, str]) -> None:
        config = json.loads(args["model_config"])
        self.decoupled = pb_utils.using_decoupled_model_transaction_policy(config)
        self.skip = int(config["parameters"]["skip"]["string_value"])
        self.milliseconds = int(config["parameters"]["milliseconds"]["string_value"])
        self.stopped: set[str] = set()
        self.threads: list[threading.Thread] = []

    def execute(self, requests: list[Any]) -> list[Any] | None:
        if not self.decoupled:
            return [self._plain(request) for request in requests]
        for request in requests:
            tensors = {tensor.name(): np.array(tensor.as_numpy()) for tensor in request.inputs()}
            arguments = (tensors, request.get_response_sender(), request.request_id())
            self.threads.append(threading.Thread(target=self._stream, args=arguments))
            self.threads[-1].start()
        return None

    def finalize(self) -> None:
        for thread in self.threads:
            thread.join()

    def _answer(self, tensors: dict[str, Any]) -> list[int]:
        count = int(tensors["request_output_len"].reshape(-1)[0])
        length = int(tensors["input_lengths"].reshape(-1)[0])
        ids: list[int] = tensors["input_ids"].reshape(-1)[self.skip : length][:count].tolist()
        return ids

    def _plain(self, request: Any) -> Any:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        return _response(self._answer(tensors))

    def _stream(self, tensors: dict[str, Any], sender: Any, request_id: str) -> None:
        final = pb_utils.TRITONSERVER_RESPONSE_COMPLETE_FINAL
        if "stop" in tensors:
            self.stopped.add(request_id)
            pb_utils.Logger.log_warn(f"stopped {request_id}")
            sender.send(flags=final)
            return
        ids = self._answer(tensors)
        if "repetition_penalty" in tensors and float(tensors["repetition_penalty"].reshape(-1)[0]) < 0:
            error = pb_utils.TritonError("repetition_penalty is below 0", pb_utils.TritonError.INVALID_ARG)
            sender.send(pb_utils.InferenceResponse(error=error), flags=final)
            return
        delay = int(tensors.get("min_length", np.full(1, self.milliseconds)).reshape(-1)[0]) / 1000
        said = 0
        for token in ids:
            time.sleep(delay)
            if request_id in self.stopped or sender.is_cancelled():
                break
            said += 1
            if bool(tensors.get("streaming", np.zeros(1)).reshape(-1)[0]):
                sender.send(_response([token]))
        pb_utils.Logger.log_warn(f"said {said} of {len(ids)}")
        if not bool(tensors.get("streaming", np.zeros(1)).reshape(-1)[0]):
            sender.send(_response(ids[:said]))
        sender.send(flags=final)


def _response(ids: list[int]) -> Any:
    return pb_utils.InferenceResponse(
        [
            pb_utils.Tensor("output_ids", np.array([[ids]], dtype=np.int32)),
            pb_utils.Tensor("sequence_length", np.array([[len(ids)]], dtype=np.int32)),
            pb_utils.Tensor("cum_log_probs", np.array([[-0.5]], dtype=np.float32)),
        ]
    )
