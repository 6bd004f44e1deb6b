"""Triton's model configuration of a FasterTransformer BLOOM, through Triton's own ModelConfig message.

Tensors and parameters are those of triton-inference-server/fastertransformer_backend all_models/bloom/fastertransformer/config.pbtxt.
"""

from typing import Final

from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

NAME: Final = "fastertransformer"
VERSION: Final = "1"
SERVED_PATH: Final = f"/mnt/models/{NAME}/{VERSION}"
"""Where KServe's storage initializer puts the version folder."""

FASTER_TRANSFORMER: Final = "fastertransformer"
CPU_STAND_IN: Final = "python-cpu-stand-in"

SCALAR: Final[tuple[int, ...]] = ()
"""One value a row: dims [1] for the client, nothing for the backend."""

INPUTS: Final[tuple[tuple[str, str, tuple[int, ...], bool], ...]] = (
    ("input_ids", "TYPE_UINT32", (-1,), False),
    ("input_lengths", "TYPE_UINT32", SCALAR, False),
    ("request_output_len", "TYPE_UINT32", (-1,), False),
    ("runtime_top_k", "TYPE_UINT32", SCALAR, True),
    ("runtime_top_p", "TYPE_FP32", SCALAR, True),
    ("beam_search_diversity_rate", "TYPE_FP32", SCALAR, True),
    ("temperature", "TYPE_FP32", SCALAR, True),
    ("len_penalty", "TYPE_FP32", SCALAR, True),
    ("repetition_penalty", "TYPE_FP32", SCALAR, True),
    ("random_seed", "TYPE_UINT64", SCALAR, True),
    ("is_return_log_probs", "TYPE_BOOL", SCALAR, True),
    ("is_return_context_embeddings", "TYPE_BOOL", SCALAR, True),
    ("beam_width", "TYPE_UINT32", SCALAR, True),
    ("start_id", "TYPE_UINT32", SCALAR, True),
    ("end_id", "TYPE_UINT32", SCALAR, True),
    ("stop_words_list", "TYPE_INT32", (2, -1), True),
    ("bad_words_list", "TYPE_INT32", (2, -1), True),
    ("prompt_learning_task_name_ids", "TYPE_UINT32", SCALAR, True),
    ("request_prompt_embedding", "TYPE_FP16", (-1, -1), True),
    ("request_prompt_lengths", "TYPE_UINT32", SCALAR, True),
    ("request_prompt_type", "TYPE_UINT32", SCALAR, True),
    ("top_p_decay", "TYPE_FP32", SCALAR, True),
    ("top_p_min", "TYPE_FP32", SCALAR, True),
    ("top_p_reset_ids", "TYPE_UINT32", SCALAR, True),
)
"""Name, type, dims of a row, optional."""

OUTPUTS: Final[tuple[tuple[str, str, tuple[int, ...]], ...]] = (
    ("output_ids", "TYPE_UINT32", (-1, -1)),
    ("sequence_length", "TYPE_UINT32", (-1,)),
    ("response_input_lengths", "TYPE_INT32", (-1,)),
    ("cum_log_probs", "TYPE_FP32", (-1,)),
    ("output_log_probs", "TYPE_FP32", (-1, -1)),
    ("context_embeddings", "TYPE_FP32", (-1, -1)),
)


def model_config_text(
    *,
    backend: str,
    data_type: str,
    tensor_parallel_size: int,
    pipeline_parallel_size: int = 1,
    served_path: str = SERVED_PATH,
) -> str:
    """config.pbtxt. `backend`: FASTER_TRANSFORMER or CPU_STAND_IN; `data_type`: what it computes in (fp16, fp32); `served_path`:
    of the version folder, where Triton runs."""
    stand_in = backend == CPU_STAND_IN
    config = model_config_pb2.ModelConfig(
        name=NAME, backend="python" if stand_in else FASTER_TRANSFORMER, max_batch_size=1024
    )
    # A message that is all defaults is written only where it is set: `decoupled: false` is said outright.
    config.model_transaction_policy.CopyFrom(model_config_pb2.ModelTransactionPolicy(decoupled=False))
    for name, kind, dims, optional in INPUTS:
        tensor = config.input.add(name=name, data_type=kind, dims=dims or (1,), optional=optional)
        if not dims:
            tensor.reshape.CopyFrom(model_config_pb2.ModelTensorReshape())
    for name, kind, dims in OUTPUTS:
        config.output.add(name=name, data_type=kind, dims=dims)
    config.instance_group.add(count=1, kind="KIND_CPU")
    parameters = {
        "tensor_para_size": str(tensor_parallel_size),
        "pipeline_para_size": str(pipeline_parallel_size),
        "data_type": data_type,
        "model_type": "GPT",
        "model_checkpoint_path": served_path,
        "int8_mode": "0",
        "enable_custom_all_reduce": "0",
    }
    if stand_in:
        parameters["stand_in"] = "numpy on the CPU in place of FasterTransformer's backend"
    for name, value in parameters.items():
        config.parameters[name].string_value = value
    return str(text_format.MessageToString(config))
