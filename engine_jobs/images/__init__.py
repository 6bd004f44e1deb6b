"""The project's images: what goes into each, and the tag that says so.

A tag is a content address: it changes with the image's Containerfile, its locked requirements, the repository's files that are
copied in, or its base, and with nothing else. So an unchanged image is never built again, and a pod never runs another image
than the checkout describes. Debian's own point updates are not part of it: `base` follows the release.

The Jobs' tag is part of every engine's content address (it names the converter), hence only what runs in the container goes in:
the modules that its programs import, found by reading their import statements. The smoke test has an image of its own on top
for the same reason.
"""

import ast
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[2]
PREFIX = "localhost/llm-serving"


@dataclass(frozen=True, kw_only=True)
class Image:
    """`base`: another of the project's images, None for `scratch` or a public one. `modules`: what runs in it; with these come
    all modules of engine_jobs that they import. `files`: more paths below the repository's root, a folder standing for the
    Python files below it. `programs`: what a Go build puts beside the Containerfile. `local`: built and loaded by the local
    stack; else on a machine with a container engine and a registry.
    """

    name: str
    base: str | None = None
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    programs: tuple[str, ...] = ()
    local: bool = True

    @property
    def folder(self) -> str:
        return f"engine_jobs/images/{self.name}"

    @property
    def containerfile(self) -> str:
        return f"{self.folder}/Containerfile"


IMAGES = {
    image.name: image
    for image in (
        Image(name="pause", files=("engine_jobs/images/pause/main.go",), programs=("pause",)),
        Image(
            name="kserve-controller",
            files=("localcluster/tools/kserve/go.mod", "localcluster/tools/kserve/go.sum"),
            programs=("manager",),
        ),
        Image(name="base", files=("engine_jobs/images/base/packages.txt",)),
        Image(
            name="jobs",
            base="base",
            modules=(
                "engine_jobs.bucket",
                "engine_jobs.fetch",
                "engine_jobs.publish",
                "engine_jobs.unless_complete",
                "engine_jobs.fastertransformer.convert",
                "engine_jobs.fastertransformer.repository",
            ),
            files=("engine_jobs/images/jobs/requirements.lock", "engine_jobs/fastertransformer/cpu_backend"),
        ),
        Image(name="smoke-test", base="jobs", modules=("engine_jobs.smoke_test.__main__",)),
        Image(name="triton-cpu", base="base", files=("engine_jobs/images/triton-cpu/requirements.lock",)),
        Image(name="triton-ft", local=False),
        Image(
            name="transformer",
            base="base",
            modules=("engine_jobs.fastertransformer.transformer",),
            files=("engine_jobs/images/transformer/requirements.lock",),
        ),
        Image(
            name="storage-initializer",
            base="base",
            modules=("engine_jobs.manifest",),
            files=(
                "engine_jobs/images/storage-initializer/initializer-entrypoint",
                "engine_jobs/images/storage-initializer/requirements.lock",
            ),
        ),
    )
}


def source_files(image: Image, repository: Path = REPOSITORY) -> tuple[str, ...]:
    """All that is copied into the image, sorted, each path relative to the repository's root.

    Raises FileNotFoundError for a file that the checkout lacks.
    """
    files = {path.relative_to(repository).as_posix() for path in _module_files(image.modules, repository)}
    for file in image.files:
        path = repository / file
        if path.is_dir():
            files.update(each.relative_to(repository).as_posix() for each in path.rglob("*.py"))
        elif path.is_file():
            files.add(file)
        else:
            raise FileNotFoundError(
                2, f"the image {image.name} is made from a file that this checkout lacks", str(path)
            )
    return tuple(sorted(files))


def _module_files(modules: tuple[str, ...], repository: Path) -> set[Path]:
    """The files of these modules, of all of engine_jobs that they import, at any depth, and of the packages around them."""
    files: set[Path] = set()
    left = list(modules)
    while left:
        name = left.pop()
        file = _module_file(name, repository)
        if file is None:
            raise FileNotFoundError(2, "a module that goes into an image is not in this checkout", name)
        if file in files:
            continue
        files.add(file)
        if "." in name:
            left.append(name.rpartition(".")[0])
        left.extend(_imports(file, repository))
    return files


def _module_file(name: str, repository: Path) -> Path | None:
    path = repository.joinpath(*name.split("."))
    return next((each for each in (path.with_suffix(".py"), path / "__init__.py") if each.is_file()), None)


def _imports(file: Path, repository: Path) -> Iterator[str]:
    """The modules of engine_jobs that the file imports anywhere in it. The house imports by absolute names only."""
    for node in ast.walk(ast.parse(file.read_bytes(), str(file))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            inner = [f"{node.module}.{alias.name}" for alias in node.names]
            names = [node.module, *(name for name in inner if _module_file(name, repository))]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] == "engine_jobs")


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
