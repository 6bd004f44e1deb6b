"""The images of the recipe `torchserve-accelerate`."""

from engine_jobs.image import Image

FOLDER = "engine_jobs/torchserve_accelerate/images"
SERVER = ("engine_jobs.torchserve_accelerate.serve",)
LOG_CONFIG = "engine_jobs/torchserve_accelerate/log4j2.xml"

IMAGES = (
    Image(
        name="torch-model-archiver",
        folder=f"{FOLDER}/torch-model-archiver",
        base="jobs",
        modules=("engine_jobs.torchserve_accelerate.archive", "engine_jobs.torchserve_accelerate.accelerate_handler"),
        files=(f"{FOLDER}/torch-model-archiver/requirements.lock",),
    ),
    Image(name="torchserve", folder=f"{FOLDER}/torchserve", modules=SERVER, files=(LOG_CONFIG,), local=False),
    Image(
        name="torchserve-cpu",
        folder=f"{FOLDER}/torchserve-cpu",
        base="torch",
        modules=SERVER,
        files=(LOG_CONFIG, f"{FOLDER}/torchserve-cpu/requirements.lock", f"{FOLDER}/torchserve-cpu/packages.txt"),
    ),
)
