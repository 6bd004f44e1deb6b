"""The images of the recipes with TensorRT-LLM: one for each Triton release that can be built for, and what assembles a repository."""

from engine_jobs.image import Image
from engine_jobs.tensorrt_llm.versions import releases

FOLDER = "engine_jobs/tensorrt_llm/images"
STAND_IN = "engine_jobs.tensorrt_llm.cpu_stand_in"

DATA = (
    *(f"engine_jobs/tensorrt_llm/data/{name}.toml" for name in ("flags", "releases")),
    *(
        f"engine_jobs/tensorrt_llm/templates/{name}.toml"
        for name in ("ensemble", "postprocessing", "preprocessing", "tensorrt_llm", "tensorrt_llm_bls", "variables")
    ),
)
"""What the library reads beside its modules."""

GPU_IMAGES = tuple(
    Image(
        name=release.image,
        folder=f"{FOLDER}/triton-trtllm",
        modules=("engine_jobs.unless_complete",),
        files=("engine_jobs/images/jobs/requirements.lock",),
        args={"TRITON_VERSION": release.triton, "TENSORRT_LLM_VERSION": release.tensorrt_llm},
        local=False,
    )
    for release in releases().values()
)

IMAGES = (
    *GPU_IMAGES,
    Image(
        name="trtllm-repository",
        folder=f"{FOLDER}/trtllm-repository",
        base="jobs",
        modules=("engine_jobs.tensorrt_llm.check_engine", "engine_jobs.tensorrt_llm.repository"),
        files=("engine_jobs/tensorrt_llm/cpu_stand_in", "engine_jobs/tensorrt_llm/repository_models", *DATA),
    ),
    Image(
        name="trtllm-cpu",
        folder=f"{FOLDER}/trtllm-cpu",
        base="triton-cpu",
        modules=(
            "engine_jobs.unless_complete",
            *(f"{STAND_IN}.{program}" for program in ("convert_checkpoint", "trtllm_build", "triton_import")),
        ),
        files=(
            f"{FOLDER}/trtllm-cpu/requirements.lock",
            *("engine_jobs/tensorrt_llm/cpu_stand_in", "engine_jobs/tensorrt_llm/repository_models", *DATA),
        ),
    ),
)
