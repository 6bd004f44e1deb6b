"""The images of the recipe triton-cli: TensorRT-LLM's with Triton CLI beside it, what assembles an import, and aiperf."""

from engine_jobs.image import Image
from engine_jobs.tensorrt_llm import images as tensorrt_llm
from engine_jobs.tensorrt_llm.versions import pinned_release
from engine_jobs.triton_cli.imported import triton_cli_commit, triton_cli_version, triton_releases

FOLDER = "engine_jobs/triton_cli/images"
RELEASES = "engine_jobs/triton_cli/data/releases.toml"
DATA = ("engine_jobs/tensorrt_llm/data/releases.toml", RELEASES)

GPU_IMAGES = tuple(
    Image(
        name=f"triton-cli-{release}",
        folder=f"{FOLDER}/triton-cli",
        base=pinned_release(release, None).image,
        modules=("engine_jobs.triton_cli.import_model",),
        files=DATA,
        args={"TRITON_CLI_VERSION": triton_cli_version(), "TRITON_CLI_COMMIT": triton_cli_commit()},
        local=False,
    )
    for release in triton_releases()
)

IMAGES = (
    *GPU_IMAGES,
    Image(
        name="triton-cli-cpu",
        folder=f"{FOLDER}/triton-cli-cpu",
        base="trtllm-cpu",
        modules=("engine_jobs.triton_cli.import_model",),
        files=DATA,
    ),
    Image(
        name="triton-cli-repository",
        folder=f"{tensorrt_llm.FOLDER}/trtllm-repository",
        base="jobs",
        modules=("engine_jobs.triton_cli.repository",),
        files=(
            "engine_jobs/tensorrt_llm/cpu_stand_in",
            "engine_jobs/tensorrt_llm/repository_models",
            *tensorrt_llm.DATA,
            RELEASES,
        ),
    ),
    Image(
        name="aiperf",
        folder=f"{FOLDER}/aiperf",
        base="base",
        modules=("engine_jobs.triton_cli.benchmark",),
        files=(f"{FOLDER}/aiperf/requirements.lock",),
    ),
)
