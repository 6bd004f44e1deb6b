"""The image of the load test's Job: on that of the Jobs, so that a change here changes no engine's builder."""

from engine_jobs.image import Image

IMAGES = (
    Image(
        name="load",
        folder="engine_jobs/load/images/load",
        base="jobs",
        modules=("engine_jobs.load.__main__",),
        files=("engine_jobs/load/style.css",),
    ),
)
