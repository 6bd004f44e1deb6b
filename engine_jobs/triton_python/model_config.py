"""Triton's configuration of one served model, through Triton's own ModelConfig message: a light front and the engine behind it.

<name>          takes `infer` and `generate`; instances, batch size and dynamic batching are its own, as in the tutorial
<name>_stream   holds the weights; decoupled: `generate_stream` and gRPC streams
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_jobs.triton_python.served.parameters import INPUTS, STOP_WORDS, STREAM, TEXT_INPUT

VERSION: Final = "1"
STREAM_SUFFIX: Final = "_stream"
CHECKPOINT: Final = "checkpoint"
"""The checkpoint's folder in the engine's version folder."""


@dataclass(frozen=True, kw_only=True)
class DynamicBatching:
    """Triton's dynamic batcher of the front: how long it waits to fill a batch, and which sizes it prefers."""

    max_queue_delay_microseconds: int = 0
    preferred_batch_sizes: tuple[int, ...] = ()


@dataclass(frozen=True, kw_only=True)
class ServedModel:
    """`parameters` are the engine's, by their names in config.pbtxt. `instances` and `max_batch_size` are the front's:
    their product is how many requests are on their way at once (a batch size of 0 counts as 1). `gpu`: the engine is
    on a GPU, one instance on each that Triton sees."""

    name: str
    output_tensor: str
    instances: int
    max_batch_size: int
    dynamic_batching: DynamicBatching | None
    gpu: bool
    parameters: Mapping[str, str]

    @property
    def engine(self) -> str:
        return f"{self.name}{STREAM_SUFFIX}"


def config_texts(model: ServedModel) -> dict[str, str]:
    """config.pbtxt of both of its Triton models, by the name of the Triton model."""
    return {
        each.name: text_format.MessageToString(each, as_utf8=True)
        for each in (front_config(model), engine_config(model))
    }


def front_config(model: ServedModel) -> Any:
    config = _config(model.name, model)
    config.max_batch_size = model.max_batch_size
    config.model_transaction_policy.CopyFrom(model_config_pb2.ModelTransactionPolicy(decoupled=False))
    config.instance_group.add(count=model.instances, kind="KIND_CPU")
    config.parameters["engine"].string_value = model.engine
    if model.dynamic_batching is not None:
        config.dynamic_batching.CopyFrom(
            model_config_pb2.ModelDynamicBatching(
                preferred_batch_size=model.dynamic_batching.preferred_batch_sizes,
                max_queue_delay_microseconds=model.dynamic_batching.max_queue_delay_microseconds,
            )
        )
    return config


def engine_config(model: ServedModel) -> Any:
    config = _config(model.engine, model)
    config.model_transaction_policy.decoupled = True
    config.input.add(name=STREAM, data_type="TYPE_BOOL", dims=(1,), optional=True)
    config.instance_group.add(count=1, kind="KIND_GPU" if model.gpu else "KIND_CPU")
    config.parameters["checkpoint"].string_value = CHECKPOINT
    for name, value in sorted(model.parameters.items()):
        config.parameters[name].string_value = value
    return config


def _config(name: str, model: ServedModel) -> Any:
    config = model_config_pb2.ModelConfig(name=name, backend="python", max_batch_size=0)
    config.input.add(name=TEXT_INPUT, data_type="TYPE_STRING", dims=(1,))
    for tensor, kind in INPUTS.items():
        config.input.add(name=tensor, data_type=kind, dims=(-1 if tensor == STOP_WORDS else 1,), optional=True)
    config.output.add(name=model.output_tensor, data_type="TYPE_STRING", dims=(1,))
    return config


def models_text(models: Sequence[ServedModel]) -> str:
    """Models as the value of the repository program's --models."""
    return json.dumps(
        [
            {
                "name": model.name,
                "outputTensor": model.output_tensor,
                "instances": model.instances,
                "maxBatchSize": model.max_batch_size,
                "dynamicBatching": None
                if model.dynamic_batching is None
                else {
                    "maxQueueDelayMicroseconds": model.dynamic_batching.max_queue_delay_microseconds,
                    "preferredBatchSizes": list(model.dynamic_batching.preferred_batch_sizes),
                },
                "gpu": model.gpu,
                "parameters": dict(sorted(model.parameters.items())),
            }
            for model in models
        ],
        separators=(",", ":"),
    )
