"""The CPU stand-in of TensorRT-LLM: its commands, its checkpoint and engine folders, and its Triton model, computed with numpy."""

from typing import Final

FOLDER: Final = "engine_jobs/tensorrt_llm/cpu_stand_in"

_MODULES: Final = (
    "engine_jobs/__init__.py",
    "engine_jobs/durable.py",
    "engine_jobs/errors.py",
    "engine_jobs/safetensors_header.py",
    "engine_jobs/tensorrt_llm/__init__.py",
    "engine_jobs/tensorrt_llm/versions.py",
    "engine_jobs/tensorrt_llm/repository_models/__init__.py",
    "engine_jobs/tensorrt_llm/repository_models/parameters.py",
    *(
        f"{FOLDER}/{name}.py"
        for name in (
            *(
                "__init__",
                "batcher",
                "checkpoint",
                "engine",
                "folders",
                "generation",
                "llama",
                "reply",
                "sampling",
                "server",
            ),
            *("tensor_file", "tensors"),
        )
    ),
)


def version_files() -> dict[str, str]:
    """What goes into the version folder of the `tensorrt_llm` model: the path there, and the file's path below the repository's
    root. It needs only numpy of the image that serves it."""
    return {"model.py": f"{FOLDER}/model.py", **{file: file for file in _MODULES}}
