"""Triton Python-backend model with the name, tensors and files of FasterTransformer's: the CPU stand-in.

Triton imports this file from the model's version folder, where engine_jobs/fastertransformer/repository.py has put it
together with the modules that it imports. It computes with numpy what the FasterTransformer backend computes on a GPU.
"""

import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import triton_python_backend_utils as pb_utils

sys.path.insert(0, str(Path(__file__).resolve().parent))

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.cpu_backend.bloom import Bloom
from engine_jobs.fastertransformer.cpu_backend.generation import generate
from engine_jobs.fastertransformer.cpu_backend.tensors import answer_tensors, read_request
from engine_jobs.fastertransformer.layout import WeightsFolder


class TritonPythonModel:
    """One instance; requests are answered one after another, each with its own batch."""

    def initialize(self, args: dict[str, str]) -> None:
        """Loads the weights from the parameter `model_checkpoint_path`; Triton reports a failure as the model's reason."""
        parameters = {
            key: value["string_value"] for key, value in json.loads(args["model_config"])["parameters"].items()
        }
        pb_utils.Logger.log_warn(
            f"{args['model_name']}: this is the CPU stand-in of FasterTransformer's backend. It reads the same files and "
            "answers through the same tensors with numpy, in fp32; it says nothing about a GPU's speed."
        )
        try:
            folder = WeightsFolder.read(Path(parameters["model_checkpoint_path"]))
            ranks = int(parameters["tensor_para_size"])
            if folder.ranks != ranks:
                raise UserError(
                    f"config.pbtxt has tensor_para_size {ranks}, and the weights in {folder.path} were split for {folder.ranks}"
                )
            self.model = Bloom(folder)
        except UserError as error:
            raise pb_utils.TritonModelException(f"CPU stand-in: {error}") from None
        size = folder.dimensions
        pb_utils.Logger.log_info(
            f"{args['model_name']}: {size.layers} layers, {size.heads} heads, hidden size {size.hidden}, vocabulary "
            f"{size.vocabulary}, read from {folder.path} ({folder.data_type}, tensor parallel {folder.ranks})"
        )

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Any) -> Any:
        tensors = {tensor.name(): tensor.as_numpy() for tensor in request.inputs()}
        try:
            made = answer_tensors(generate(self.model, read_request(tensors, self.model.folder)), tensors)
        except UserError as error:
            return pb_utils.InferenceResponse(error=pb_utils.TritonError(str(error), pb_utils.TritonError.INVALID_ARG))
        wanted = request.requested_output_names()
        return pb_utils.InferenceResponse(
            [pb_utils.Tensor(name, value) for name, value in made.items() if name in wanted]
        )
