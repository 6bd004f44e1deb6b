"""The Python-backend models of the inflight_batcher_llm repository: preprocessing, postprocessing and tensorrt_llm_bls.

Each model's `model.py` goes into its version folder, together with the modules of engine_jobs that it imports (`version_files`):
they travel with the artifact and need only numpy and `tokenizers` of the image that serves it, on a GPU as on a CPU. Tensors and
parameters are those of triton-inference-server/tensorrtllm_backend v0.17.0, all_models/inflight_batcher_llm; the code is our own.
"""

from typing import Final

_PACKAGE: Final = "tensorrt_llm/repository_models"
_COMMON: Final = (
    "__init__.py",
    "errors.py",
    "tensorrt_llm/__init__.py",
    f"{_PACKAGE}/__init__.py",
    f"{_PACKAGE}/parameters.py",
)


def _files(*own: str) -> tuple[str, ...]:
    return (*_COMMON, *(f"{_PACKAGE}/{name}" for name in own))


FILES: Final = {
    "preprocessing": _files("engine_limits.py", "prompts.py", "tensors.py", "tokenizer.py"),
    "postprocessing": _files("answers.py", "tensors.py", "tokenizer.py"),
    "tensorrt_llm_bls": _files("bls_request.py", "tensors.py", "text_stream.py"),
}
"""What each model's `model.py` imports, by its path under engine_jobs."""


def version_files(model: str) -> dict[str, str]:
    """What goes into the version folder of one of FILES: the path there, and the file's path below the repository's root."""
    modules = {f"engine_jobs/{file}": f"engine_jobs/{file}" for file in FILES[model]}
    return {"model.py": f"engine_jobs/{_PACKAGE}/{model}/model.py", **modules}
