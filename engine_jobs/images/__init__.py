"""The project's images: what goes into each, and the tag that says so.

A tag is a content address: it changes with the image's Containerfile, its locked requirements, the repository's files that are
copied in, or its base, and with nothing else. So an unchanged image is never built again, and a pod never runs another image
than the checkout describes. Debian's own point updates are not part of it: `base` follows the release.

The Jobs' tag is part of every engine's content address (it names the converter), hence the rule for `sources`: only what runs
in the container. The smoke test has an image of its own on top for the same reason.
"""

import hashlib
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = "localhost/llm-serving"


@dataclass(frozen=True, kw_only=True)
class Image:
    """`base`: another of the project's images, None for `scratch` or a public one. `sources`: paths below the repository's root,
    a folder standing for the Python files below it. `programs`: what a Go build puts beside the Containerfile."""

    name: str
    base: str | None = None
    sources: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    local: bool = True
    """Built and loaded by the local stack; False: on a machine with a container engine and a registry."""

    @property
    def folder(self) -> str:
        return f"engine_jobs/images/{self.name}"

    @property
    def containerfile(self) -> str:
        return f"{self.folder}/Containerfile"


_PACKAGE = ("engine_jobs/__init__.py", "engine_jobs/errors.py")

IMAGES = {
    image.name: image
    for image in (
        Image(name="pause", sources=("engine_jobs/images/pause/main.go",), programs=("pause",)),
        Image(
            name="kserve-controller",
            sources=("localcluster/tools/kserve/go.mod", "localcluster/tools/kserve/go.sum"),
            programs=("manager",),
        ),
        Image(name="base", sources=("engine_jobs/images/base/packages.txt",)),
        Image(
            name="jobs",
            base="base",
            sources=(
                *_PACKAGE,
                "engine_jobs/bucket.py",
                "engine_jobs/fetch.py",
                "engine_jobs/manifest.py",
                "engine_jobs/publish.py",
                "engine_jobs/s3.py",
                "engine_jobs/safetensors_header.py",
                "engine_jobs/store.py",
                "engine_jobs/unless_complete.py",
                "engine_jobs/fastertransformer/__init__.py",
                "engine_jobs/fastertransformer/checkpoint.py",
                "engine_jobs/fastertransformer/convert.py",
                "engine_jobs/fastertransformer/repository.py",
                "engine_jobs/fastertransformer/cpu_backend",
                "engine_jobs/images/jobs/requirements.lock",
            ),
        ),
        Image(name="smoke-test", base="jobs", sources=(*_PACKAGE, "engine_jobs/smoke_test")),
        Image(name="triton-cpu", base="base", sources=("engine_jobs/images/triton-cpu/requirements.lock",)),
        Image(name="triton-ft", local=False),
        Image(
            name="transformer",
            base="base",
            sources=(
                *_PACKAGE,
                "engine_jobs/fastertransformer/__init__.py",
                "engine_jobs/fastertransformer/completion.py",
                "engine_jobs/fastertransformer/kserve_model.py",
                "engine_jobs/fastertransformer/transformer.py",
                "engine_jobs/images/transformer/requirements.lock",
            ),
        ),
        Image(
            name="storage-initializer",
            base="base",
            sources=(
                *_PACKAGE,
                "engine_jobs/manifest.py",
                "engine_jobs/images/storage-initializer/initializer-entrypoint",
                "engine_jobs/images/storage-initializer/requirements.lock",
            ),
        ),
    )
}


def source_files(image: Image, repository: Path = REPOSITORY) -> tuple[str, ...]:
    """The files of `sources`, folders spelled out, sorted, each relative to the repository's root.

    Raises FileNotFoundError for a source that the checkout lacks.
    """
    files: set[str] = set()
    for source in image.sources:
        path = repository / source
        if path.is_dir():
            files.update(file.relative_to(repository).as_posix() for file in path.rglob("*.py"))
        elif path.is_file():
            files.add(source)
        else:
            raise FileNotFoundError(
                2, f"the image {image.name} is made from a file that this checkout lacks", str(path)
            )
    return tuple(sorted(files))


@cache
def content_tag(name: str, repository: Path = REPOSITORY) -> str:
    """The image's tag: the first 16 hex digits of a sha256 over its base's tag and the paths and bytes of its files.

    Raises KeyError for a name that is not in IMAGES.
    """
    image = IMAGES[name]
    digest = hashlib.sha256()
    digest.update(f"base {content_tag(image.base, repository) if image.base else '-'}\n".encode())
    for file in (image.containerfile, *source_files(image, repository)):
        content = hashlib.sha256((repository / file).read_bytes()).hexdigest()
        digest.update(f"{content} {file}\n".encode())
    return digest.hexdigest()[:16]


def reference(name: str, repository: Path = REPOSITORY) -> str:
    """The full name under which the local stack loads the image, such as `localhost/llm-serving/jobs:0123456789abcdef`."""
    return f"{PREFIX}/{name}:{content_tag(name, repository)}"
