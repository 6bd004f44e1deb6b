"""What an image of the project is made of. The images themselves are listed in the `images` packages of engine_jobs' folders."""

import ast
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[1]


@dataclass(frozen=True, kw_only=True)
class Image:
    """`folder`: where its Containerfile is. `base`: another of the project's images, given to the Containerfile as build argument
    BASE; None for `scratch` or a public one. `modules`: what runs in it; with these come all modules of engine_jobs that they
    import. `files`: more paths below the repository's root, a folder standing for the Python files below it. `args`: further
    build arguments. `programs`: what a Go build puts beside the Containerfile. `local`: built and loaded by the local stack;
    else on a machine with a container engine and a registry.
    """

    name: str
    folder: str
    base: str | None = None
    modules: tuple[str, ...] = ()
    files: tuple[str, ...] = ()
    args: Mapping[str, str] = field(default_factory=dict)
    programs: tuple[str, ...] = ()
    local: bool = True

    @property
    def containerfile(self) -> str:
        return f"{self.folder}/Containerfile"

    @property
    def lock(self) -> str:
        """Its locked Python requirements, where it has such a file."""
        return f"{self.folder}/requirements.lock"

    @property
    def packages(self) -> str:
        """The names of its Debian packages, one a line, where it has such a file."""
        return f"{self.folder}/packages.txt"


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
