"""The repository's configuration files as text: each a Triton ModelConfig message with every variable filled."""

import re
from collections.abc import Mapping
from typing import Any, Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_jobs.tensorrt_llm.flags import FlagValue
from engine_jobs.tensorrt_llm.templates import MODELS, Template, TemplateTensor, filled_variables, template

SERVED_DIR: Final = "/mnt/models"
"""Where KServe mounts the artifact."""

REPOSITORY: Final = "model_repository"
TENSORRT_LLM: Final = "tensorrtllm"
CPU_STAND_IN: Final = "python-cpu-stand-in"
STAND_IN_NOTE: Final = "numpy on the CPU in place of TensorRT-LLM's backend"

VARIABLE: Final = re.compile(r"\$\{(\w+)\}")


def model_config_texts(
    serving: Mapping[str, FlagValue], version: str, backend: str, served_dir: str = SERVED_DIR
) -> dict[str, str]:
    """config.pbtxt of each of MODELS, by the model's name. `serving`: template variables, which must have passed `flags.check`;
    `version`: a described one; `backend`: TENSORRT_LLM or CPU_STAND_IN; `served_dir`: the artifact's folder where Triton runs."""
    stand_in = backend == CPU_STAND_IN
    variables = filled_variables(
        serving,
        version,
        {
            "triton_backend": "python" if stand_in else TENSORRT_LLM,
            "tokenizer_dir": f"{served_dir}/tokenizer",
            "engine_dir": f"{served_dir}/engines",
        },
    )
    texts = {}
    for model in MODELS:
        config = _model_config(template(model, version), variables)
        if stand_in and model == "tensorrt_llm":
            config.parameters["stand_in"].string_value = STAND_IN_NOTE
        texts[model] = str(text_format.MessageToString(config, as_utf8=True))
    return texts


def _model_config(model: Template, variables: Mapping[str, str]) -> Any:
    batch_size = int(variables["triton_max_batch_size"])
    config = model_config_pb2.ModelConfig(
        name=model.name,
        backend=_filled(model.backend, variables),
        platform=model.platform,
        max_batch_size=batch_size,
    )
    if model.decoupled:
        decoupled = _filled(model.decoupled, variables) == "true"
        # A message that is all defaults is written only where it is set: `decoupled: false` is said outright.
        config.model_transaction_policy.CopyFrom(model_config_pb2.ModelTransactionPolicy(decoupled=decoupled))
    if model.queue is not None:
        config.dynamic_batching.CopyFrom(model_config_pb2.ModelDynamicBatching())
    if model.queue:
        config.dynamic_batching.preferred_batch_size.append(batch_size)
        config.dynamic_batching.max_queue_delay_microseconds = int(variables["max_queue_delay_microseconds"])
        config.dynamic_batching.default_queue_policy.CopyFrom(
            model_config_pb2.ModelQueuePolicy(max_queue_size=int(variables["max_queue_size"]))
        )
    for tensor in model.inputs:
        message = config.input.add(optional=tensor.optional, allow_ragged_batch=tensor.ragged)
        _fill_tensor(message, tensor, variables)
    for tensor in model.outputs:
        _fill_tensor(config.output.add(), tensor, variables)
    if model.instances:
        config.instance_group.add(count=int(_filled(model.instances, variables)), kind="KIND_CPU")
    for step in model.steps:
        message = config.ensemble_scheduling.step.add(model_name=step.model, model_version=-1)
        message.input_map.update(step.inputs)
        message.output_map.update(step.outputs)
    for name, value in model.parameters.items():
        if all(variable in variables for variable in VARIABLE.findall(value)):
            config.parameters[name].string_value = _filled(value, variables)
    return config


def _fill_tensor(message: Any, tensor: TemplateTensor, variables: Mapping[str, str]) -> None:
    message.name = tensor.name
    message.data_type = model_config_pb2.DataType.Value("TYPE_" + _filled(tensor.type, variables).removeprefix("TYPE_"))
    message.dims.extend(tensor.dims)
    if tensor.scalar:
        message.reshape.CopyFrom(model_config_pb2.ModelTensorReshape())


def _filled(text: str, variables: Mapping[str, str]) -> str:
    return VARIABLE.sub(lambda match: variables[match[1]], text)
