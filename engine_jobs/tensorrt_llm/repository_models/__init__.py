"""The Python-backend models of the inflight_batcher_llm repository: preprocessing, postprocessing and tensorrt_llm_bls.

Each model's `model.py` goes into its version folder, together with the modules of engine_jobs that it imports (`version_files`):
they travel with the artifact and need only numpy and `tokenizers` of the image that serves it, on a GPU as on a CPU. Tensors and
parameters are those of triton-inference-server/tensorrtllm_backend v0.17.0, all_models/inflight_batcher_llm; the code is our own.
"""

from typing import Final

FOLDER: Final = "engine_jobs/tensorrt_llm/repository_models"

_COMMON: Final = (
    "engine_jobs/__init__.py",
    "engine_jobs/errors.py",
    "engine_jobs/tensorrt_llm/__init__.py",
    f"{FOLDER}/__init__.py",
    f"{FOLDER}/parameters.py",
)

_MODULES: Final = {
    "preprocessing": ("engine_limits.py", "prompts.py", "tensors.py", "tokenizer.py"),
    "postprocessing": ("answers.py", "tensors.py", "tokenizer.py"),
    "tensorrt_llm_bls": ("bls_request.py", "tensors.py", "text_stream.py"),
}

MODELS: Final = tuple(_MODULES)


def version_files(model: str) -> dict[str, str]:
    """What goes into the version folder of one of MODELS: the path there, and the file's path below the repository's root."""
    files = (*_COMMON, *(f"{FOLDER}/{name}" for name in _MODULES[model]))
    return {"model.py": f"{FOLDER}/{model}/model.py", **{file: file for file in files}}
