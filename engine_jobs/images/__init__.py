"""The project's images, and the tag that says what is in each.

An image is declared where what runs in it is: here those that all recipes share, and in the `images` package of any folder of
engine_jobs its own. A tag is a content address: it changes with the image's Containerfile, its build arguments, its locked
requirements, the repository's files that are copied in, or its base, and with nothing else. So an unchanged image is never built
again, and a pod never runs another image than the checkout describes. Debian's own point updates are not part of it: `base`
follows the release.

A builder's tag is part of its engines' content addresses (it names the converter), hence only what runs in the container goes in:
the modules that its programs import, found by reading their import statements. The smoke test has an image of its own for the
same reason.
"""

import hashlib
import importlib
import pkgutil
from collections.abc import Mapping
from functools import cache
from pathlib import Path

import engine_jobs
from engine_jobs.image import REPOSITORY, Image, source_files

PREFIX = "localhost/llm-serving"


def _image(name: str, **what: object) -> Image:
    return Image(name=name, folder=f"engine_jobs/images/{name}", **what)  # type: ignore[arg-type]


SHARED = (
    _image("pause", files=("engine_jobs/images/pause/main.go",), programs=("pause",)),
    _image(
        "kserve-controller",
        files=("localcluster/tools/kserve/go.mod", "localcluster/tools/kserve/go.sum"),
        programs=("manager",),
    ),
    _image("base", files=("engine_jobs/images/base/packages.txt",)),
    _image(
        "jobs",
        base="base",
        modules=(
            "engine_jobs.bucket",
            "engine_jobs.fetch",
            "engine_jobs.fill_disk",
            "engine_jobs.publish",
            "engine_jobs.unless_complete",
        ),
        files=("engine_jobs/images/jobs/requirements.lock",),
    ),
    _image("smoke-test", base="jobs", modules=("engine_jobs.smoke_test.__main__",)),
    _image(
        "torch",
        base="base",
        files=("engine_jobs/images/torch/requirements.lock", "engine_jobs/images/torch/cuda_stand_ins.py"),
    ),
    _image("triton-cpu", base="base", files=("engine_jobs/images/triton-cpu/requirements.lock",)),
    _image(
        "storage-initializer",
        base="base",
        modules=("engine_jobs.manifest",),
        files=(
            "engine_jobs/images/storage-initializer/initializer-entrypoint",
            "engine_jobs/images/storage-initializer/requirements.lock",
        ),
    ),
)


def _declared() -> dict[str, Image]:
    """Every image by its name: the shared ones, and those of each folder of engine_jobs with an `images` package."""
    found = list(SHARED)
    for package in pkgutil.iter_modules(engine_jobs.__path__):
        if package.ispkg and (Path(*engine_jobs.__path__) / package.name / "images" / "__init__.py").is_file():
            found.extend(importlib.import_module(f"engine_jobs.{package.name}.images").IMAGES)
    by_name = {image.name: image for image in found}
    if len(by_name) < len(found):
        raise ValueError(f"two images have one name among {sorted(image.name for image in found)}")
    return by_name


IMAGES = _declared()


def content_tag(name: str, arguments: Mapping[str, str] | None = None, repository: Path = REPOSITORY) -> str:
    """The image's tag: the first 16 hex digits of a sha256 over its base's tag, its build arguments (`arguments` in the place of the
    image's own), and the paths and bytes of its files.

    Raises KeyError for a name that is not in IMAGES, and for an argument that the image has not.
    """
    image = IMAGES[name]
    for argument in arguments or {}:
        if argument not in image.args:
            raise KeyError(f"the image {name} has no build argument {argument}")
    return _tag(name, tuple(sorted({**image.args, **(arguments or {})}.items())), repository)


@cache
def _tag(name: str, arguments: tuple[tuple[str, str], ...], repository: Path) -> str:
    image = IMAGES[name]
    digest = hashlib.sha256()
    base = content_tag(image.base, repository=repository) if image.base else "-"
    digest.update(f"base {base}\n".encode())
    for argument, value in arguments:
        digest.update(f"arg {argument}={value}\n".encode())
    for file in (image.containerfile, *source_files(image, repository)):
        content = hashlib.sha256((repository / file).read_bytes()).hexdigest()
        digest.update(f"{content} {file}\n".encode())
    return digest.hexdigest()[:16]


def reference(name: str, repository: Path = REPOSITORY) -> str:
    """The full name under which the local stack loads the image, such as `localhost/llm-serving/jobs:0123456789abcdef`."""
    return f"{PREFIX}/{name}:{content_tag(name, repository=repository)}"
