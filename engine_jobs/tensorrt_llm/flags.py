"""The flags of TensorRT-LLM's commands and the variables of its templates, checked against the version that is pinned.

Data: `data/flags.toml` and `templates/variables.toml`, whose heads say what the keys mean and where they were read.
"""

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import Any, Final, Literal

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.versions import Release, version_key

FLAGS: Final = Path(__file__).parent / "data" / "flags.toml"
VARIABLES: Final = Path(__file__).parent / "templates" / "variables.toml"

Table = Literal["build", "convert", "serving"]
TITLES: Final[Mapping[Table, str]] = {
    "build": "trtllm-build",
    "convert": "convert_checkpoint.py",
    "serving": "the templates of the model repository",
}

FlagValue = bool | int | float | str | tuple[str, ...]
"""What a stack file may say of a flag."""

ON_OFF: Final = ("enable", "disable")


@dataclass(frozen=True, kw_only=True)
class Flag:
    """A flag of a command, or a variable of a template; see the head of data/flags.toml for each field."""

    name: str
    kind: Literal["int", "float", "str", "list", "switch", "onoff", "choice", "bool"]
    choices: tuple[str, ...] = ()
    minimum: float | None = None
    maximum: float | None = None
    since: str | None = None
    removed: str | None = None
    superseded: str | None = None
    instead: str = ""
    managed: str = ""
    default: FlagValue | None = None
    changed: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)

    def at(self, version: str) -> "Flag":
        """The flag as that version has it."""
        flag = self
        for since, change in sorted(self.changed.items(), key=lambda item: version_key(item[0])):
            if version_key(since) <= version_key(version):
                flag = replace(flag, **{key: _frozen(value) for key, value in change.items()})
        return flag

    def accepted(self, version: str) -> bool:
        """Whether the version has it."""
        if self.since is not None and version_key(version) < version_key(self.since):
            return False
        return self.removed is None or version_key(version) < version_key(self.removed)

    def problem(self, value: FlagValue) -> str | None:
        """What is wrong with the value; None if nothing is."""
        match self.kind:
            case "switch" | "bool":
                good, wanted = isinstance(value, bool), "true or false"
            case "onoff":
                good, wanted = value in ON_OFF, "enable or disable"
            case "choice":
                good, wanted = value in self.choices, f"one of {', '.join(self.choices)}"
            case "int" | "float":
                types = (int,) if self.kind == "int" else (int, float)
                good = isinstance(value, types) and not isinstance(value, bool) and self._in_range(value)
                least = f" of at least {self.minimum:g}" if self.minimum is not None else ""
                most = f", {self.maximum:g} at most" if self.maximum is not None else ""
                wanted = f"a {'whole ' if self.kind == 'int' else ''}number{least}{most}"
            case "list":
                good, wanted = isinstance(value, tuple) and len(value) > 0, "a list of words"
            case _:
                good, wanted = isinstance(value, str) and value != "", "text"
        return None if good else f"{_text(value)!r} is not {wanted}"

    def _in_range(self, value: float) -> bool:
        return (self.minimum is None or value >= self.minimum) and (self.maximum is None or value <= self.maximum)

    def words(self, value: FlagValue) -> tuple[str, ...]:
        """The flag on a command line; nothing for a switch that is off."""
        if self.kind == "switch":
            return (f"--{self.name}",) if value else ()
        if isinstance(value, tuple):
            return (f"--{self.name}", *value)
        return (f"--{self.name}", _text(value))


def flags(table: Table) -> Mapping[str, Flag]:
    """All flags of a table, those of other versions among them."""
    return _tables()[table]


def accepted(table: Table, version: str) -> dict[str, Flag]:
    """The flags that a version has, as it has them."""
    return {name: flag.at(version) for name, flag in flags(table).items() if flag.accepted(version)}


def default(name: str, version: str) -> Any:
    """What a command uses for a flag that is not given, as far as checks need it. Raises KeyError for others."""
    by_version: Mapping[str, Any] = _data(FLAGS)["defaults"][name]
    known = [since for since in by_version if version_key(since) <= version_key(version)]
    return by_version[max(known, key=version_key)]


def check(table: Table, values: Mapping[str, FlagValue], release: Release) -> tuple[str, ...]:
    """Warnings about what is accepted and superseded. Raises UserError with a line for each flag that the release's version
    refuses, which names the version that dropped or renamed it and what to write instead, and for each wrong value."""
    problems = [line for name, value in values.items() for line in _problems(table, name, value, release)]
    if problems:
        raise UserError("\n".join(problems))
    warnings = []
    for name in values:
        flag = flags(table)[name]
        if flag.superseded and version_key(flag.superseded) <= version_key(release.described):
            warnings.append(
                f"{table}.{name}: superseded in TensorRT-LLM {flag.superseded} and still accepted by {release.tensorrt_llm}; "
                f"write {flag.instead}"
            )
    return tuple(warnings)


def command_line(table: Table, values: Mapping[str, FlagValue], release: Release) -> tuple[str, ...]:
    """The values as words of the command line, in the order given. They must have passed `check`."""
    known = accepted(table, release.described)
    return tuple(word for name, value in values.items() for word in known[name].words(value))


def _problems(table: Table, name: str, value: FlagValue, release: Release) -> list[str]:
    version = release.tensorrt_llm
    flag = flags(table).get(name)
    title = TITLES[table]
    if flag is None:
        known = ", ".join(sorted(n for n, f in accepted(table, release.described).items() if not f.managed))
        return [f"{table}.{name}: {title} of TensorRT-LLM {version} has no such name; known: {known}"]
    if flag.managed:
        return [f"{table}.{name}: not for you to set; {flag.managed}"]
    if not flag.accepted(release.described):
        if flag.removed is not None and version_key(release.described) >= version_key(flag.removed):
            return [
                f"{table}.{name}: dropped in TensorRT-LLM {flag.removed}, and {version} is pinned; write {flag.instead}"
            ]
        return [
            f"{table}.{name}: {title} of TensorRT-LLM {version} has it not yet; of the versions known here {flag.since} has it "
            "first: take a newer tritonVersion, or leave it out"
        ]
    problem = flag.at(release.described).problem(value)
    return [f"{table}.{name}: {problem}"] if problem else []


def _text(value: FlagValue) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    return " ".join(value) if isinstance(value, tuple) else str(value)


def _frozen(value: Any) -> Any:
    return tuple(value) if isinstance(value, list) else value


@cache
def _tables() -> Mapping[Table, Mapping[str, Flag]]:
    data = _data(FLAGS)
    content: dict[Table, Any] = {
        "build": data["build"],
        "convert": data["convert"],
        "serving": _data(VARIABLES)["serving"],
    }
    return {
        table: {
            name: Flag(name=name, **{key: _frozen(value) for key, value in entry.items()})
            for name, entry in entries.items()
        }
        for table, entries in content.items()
    }


@cache
def _data(path: Path) -> dict[str, Any]:
    return tomllib.loads(path.read_text(encoding="utf-8"))
