"""Triton Python-backend model `preprocessing` of the inflight_batcher_llm repository: text to token ids."""

import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.repository_models.engine_limits import read_engine_limits
from engine_jobs.tensorrt_llm.repository_models.parameters import flag, read_parameters
from engine_jobs.tensorrt_llm.repository_models.prompts import Preprocessing
from engine_jobs.tensorrt_llm.repository_models.tokenizer import read_tokenizer


class TritonPythonModel:
    """Each request is answered by itself: one that is refused spoils no other."""

    def initialize(self, args: dict[str, str]) -> None:
        """Reads the tokenizer (parameter `tokenizer_dir`) and the engine's limits (`gpt_model_path`); Triton reports a failure as the
        model's reason."""
        try:
            parameters = read_parameters(args["model_config"])
            if "tokenizer_dir" not in parameters:
                raise UserError(
                    "config.pbtxt has no parameter tokenizer_dir: name the folder of the checkpoint's tokenizer"
                )
            engine = parameters.get("gpt_model_path")
            self.preprocessing = Preprocessing(
                tokenizer=read_tokenizer(Path(parameters["tokenizer_dir"])),
                add_special_tokens=flag(parameters, "add_special_tokens", True),
                limits=read_engine_limits(Path(engine) if engine else None),
            )
        except UserError as error:
            raise pb_utils.TritonModelException(f"{args['model_name']}: {error}") from None

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        try:
            made = self.preprocessing.answer({tensor.name(): tensor.as_numpy() for tensor in request.inputs()})
        except UserError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in made.items() if name in wanted]
        )
