"""The images of the recipe triton-python: what writes the repository, and the servers for GPUs and for a CPU."""

from engine_jobs.image import Image

FOLDER = "engine_jobs/triton_python/images"

IMAGES = (
    Image(
        name="triton-python-repository",
        folder=f"{FOLDER}/triton-python-repository",
        base="jobs",
        modules=("engine_jobs.triton_python.repository",),
        files=("engine_jobs/triton_python/served",),
    ),
    Image(
        name="triton-python",
        folder=f"{FOLDER}/triton-python",
        args={"TRITON_VERSION": "25.01", "TORCH": "torch==2.11.0", "TRANSFORMERS": "transformers==5.17.0"},
        local=False,
    ),
    Image(
        name="triton-python-cpu",
        folder=f"{FOLDER}/triton-python-cpu",
        base="torch",
        files=(f"{FOLDER}/triton-python-cpu/requirements.lock",),
    ),
)
