"""What each folder of localcluster/tools declares: a Go module of our own that pins one family of tools.

`go.mod` and `go.sum` pin the versions, `tools.go` (or `main.go`) imports what is compiled, and `family.toml` says which
executable it becomes, what of the module's own files to keep, and which installed commands serve as well.
"""

import hashlib
import re
import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent / "tools"

Version = tuple[int, ...]


@dataclass(frozen=True, kw_only=True)
class Executable:
    """One `go build`: the package, the string variables that the linker sets, and links by which it is called."""

    name: str
    package: str
    stamps: Mapping[str, str]
    links: tuple[str, ...]


@dataclass(frozen=True, kw_only=True)
class Share:
    """A folder of a Go module (YAML, mostly) that is kept as share/`folder`."""

    module: str
    folder: str


@dataclass(frozen=True, kw_only=True)
class Official:
    """Installed commands that are used instead, all of them together, if minimum <= version < below.

    `arguments` make each print its version; `needs` are executables that must be beside them or on PATH.
    """

    commands: tuple[str, ...]
    arguments: tuple[str, ...]
    minimum: Version
    below: Version
    needs: tuple[str, ...]

    def accepts(self, version: Version) -> bool:
        return self.minimum <= version < self.below


@dataclass(frozen=True, kw_only=True)
class Family:
    """One folder of localcluster/tools. `version` is the pinned one, with its `v`; `go` the Go version it asks for."""

    name: str
    source: Path
    module: str
    version: str
    go: Version
    executable: Executable | None
    shares: tuple[Share, ...]
    official: tuple[Official, ...]
    digest: str

    @property
    def commands(self) -> tuple[str, ...]:
        """The names by which the executable is called."""
        if self.executable is None:
            return ()
        return self.executable.links or (self.executable.name,)

    def folder(self, tools: Path) -> Path:
        """Where the built family is: `<tools>/<family>-<12 hex digits over its pinned sources>`."""
        return tools / f"{self.name}-{self.digest[:12]}"


def parse_version(text: str) -> Version | None:
    """The first thing in the text that looks like a version (1.34.4, v3.255.0, go1.26), or None."""
    found = re.search(r"(?<![\d.])\d+\.\d+(?:\.\d+)?", text)
    return tuple(int(part) for part in found.group().split(".")) if found else None


def format_version(version: Version) -> str:
    return ".".join(str(part) for part in version)


def load_family(source: Path) -> Family:
    """Reads one folder. Raises ValueError or KeyError where family.toml and go.mod disagree: a mistake of the repository."""
    declared = tomllib.loads((source / "family.toml").read_text())
    go_mod = (source / "go.mod").read_text()
    module = declared["module"]
    required = re.search(rf"^(?:require)?\s*{re.escape(module)} (v(\d+)\.(\d+)\S*)", go_mod, re.MULTILINE)
    go = re.search(r"^go (\S+)$", go_mod, re.MULTILINE)
    if required is None or go is None:
        raise ValueError(f"{source}/go.mod does not require {module}, or has no go line")
    values = {"version": required[1], "major": required[2], "minor": required[3]}
    executable = declared.get("executable")
    return Family(
        name=source.name,
        source=source,
        module=module,
        version=required[1],
        go=_version(go[1]),
        executable=Executable(
            name=executable["name"],
            package=executable["package"],
            stamps={name: text.format(**values) for name, text in executable.get("stamps", {}).items()},
            links=tuple(executable.get("links", ())),
        )
        if executable
        else None,
        shares=tuple(Share(**share) for share in declared.get("share", ())),
        official=tuple(
            Official(
                commands=tuple(official["commands"]),
                arguments=tuple(official["arguments"]),
                minimum=_version(official["minimum"]),
                below=_version(official["below"]),
                needs=tuple(official.get("needs", ())),
            )
            for official in declared.get("official", ())
        ),
        digest=_digest(source),
    )


def load_families(folder: Path = FOLDER) -> tuple[Family, ...]:
    """Every family, in the order of their names."""
    return tuple(load_family(path.parent) for path in sorted(folder.glob("*/family.toml")))


def _version(text: str) -> Version:
    return tuple(int(part) for part in text.split("."))


def _digest(source: Path) -> str:
    """64 hex digits over the names and contents of all that decides what is built."""
    parts = [
        f"{path.name} {hashlib.sha256(path.read_bytes()).hexdigest()}\n"
        for path in sorted(source.iterdir())
        if path.suffix in {".mod", ".sum", ".go", ".toml"}
    ]
    return hashlib.sha256("".join(parts).encode()).hexdigest()
