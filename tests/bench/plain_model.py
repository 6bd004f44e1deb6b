"""What `triton-python` is measured against: the tutorial's way, a transformers pipeline in `execute`, nothing else.

«Deploying Hugging Face Transformer Models in Triton»: one `pipeline` call for all prompts of an `execute`, so that batches are
those that Triton's dynamic batcher makes. Parameters: `checkpoint` (folder), `dtype`, `max_tokens`.
"""

import json
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
import transformers
import triton_python_backend_utils as pb_utils


class TritonPythonModel:
    def initialize(self, args: Mapping[str, str]) -> None:
        config = json.loads(args["model_config"])
        parameters = {key: value["string_value"] for key, value in config["parameters"].items()}
        self.max_tokens = int(parameters["max_tokens"])
        tokenizer = transformers.AutoTokenizer.from_pretrained(parameters["checkpoint"])
        self.pipeline = transformers.pipeline(
            "text-generation",
            model=parameters["checkpoint"],
            dtype=getattr(torch, parameters["dtype"]),
            tokenizer=tokenizer,
            device_map="auto" if args["model_instance_kind"] == "GPU" else None,
        )
        self.pipeline.tokenizer.pad_token_id = tokenizer.eos_token_id
        self.pipeline.tokenizer.padding_side = "left"

    def execute(self, requests: Sequence[Any]) -> list[Any]:
        prompts = [
            prompt.decode()
            for request in requests
            for prompt in pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().reshape(-1)
        ]
        made = self.pipeline(
            prompts,
            max_new_tokens=self.max_tokens,
            do_sample=False,
            pad_token_id=self.pipeline.tokenizer.eos_token_id,
            batch_size=len(prompts),
        )
        texts = iter([each[0]["generated_text"] for each in made])
        responses = []
        for request in requests:
            shape = pb_utils.get_input_tensor_by_name(request, "text_input").as_numpy().shape
            answer = np.array([next(texts).encode() for _ in range(int(np.prod(shape)))], dtype=np.object_)
            responses.append(pb_utils.InferenceResponse([pb_utils.Tensor("text", answer.reshape(shape))]))
        return responses
