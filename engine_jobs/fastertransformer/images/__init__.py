"""The images of the FasterTransformer recipe."""

from engine_jobs.image import Image

FOLDER = "engine_jobs/fastertransformer/images"

IMAGES = (
    Image(
        name="fastertransformer-converter",
        folder=f"{FOLDER}/fastertransformer-converter",
        base="jobs",
        modules=("engine_jobs.fastertransformer.convert", "engine_jobs.fastertransformer.repository"),
        files=("engine_jobs/fastertransformer/cpu_backend",),
    ),
    Image(name="triton-ft", folder=f"{FOLDER}/triton-ft", local=False),
    Image(
        name="transformer",
        folder=f"{FOLDER}/transformer",
        base="base",
        modules=("engine_jobs.fastertransformer.transformer",),
        files=(f"{FOLDER}/transformer/requirements.lock",),
    ),
)
