"""Every executable that the local stack runs, and where each is from.

An official one on PATH that is new enough is used. What is missing is installed from Debian (localcluster/debian.py), or
built once from its Go module (localcluster/go_build.py) into the cache, where a warm start finds it without Go.
"""

import os
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from engine_jobs.errors import UserError, run
from localcluster import debian
from localcluster.go_build import build_families, command_version
from localcluster.paths import REPOSITORY, default_paths
from localcluster.progress import Progress
from localcluster.tool_families import Family, Official, format_version, load_families

# The longest builds first, and what the cluster cannot start without before what only a model needs.
BUILD_ORDER = ("kubernetes", "pulumi", "edge", "kserve", "gcs", "coredns", "s3", "etcd", "gateway-api")


class Source(StrEnum):
    """Where an executable is from."""

    OFFICIAL = "found on PATH"
    BUILT = "built from its Go module"
    SYSTEM = "system package"


@dataclass(frozen=True, kw_only=True)
class Tool:
    """One executable. `version` is empty for system packages, which are taken as they are."""

    name: str
    path: Path
    source: Source
    version: str = ""


@dataclass(frozen=True, kw_only=True)
class Tools:
    """All of them, by name, and the folders of the built families."""

    by_name: Mapping[str, Tool]
    folders: Mapping[str, Path]

    def bin(self, name: str) -> Path:
        """The executable of this name: `kubectl`, `versitygw`, `containerd`, `cni:bridge` …; KeyError if there is none."""
        return self.by_name[name].path

    def family_dir(self, family: str) -> Path:
        """The folder of a built family; KeyError where its official commands are used and nothing was built."""
        return self.folders[family]

    def share(self, family: str) -> Path:
        """The files kept of the family's Go module: kserve has `config/`, gateway-api has `config/crd/`."""
        return self.family_dir(family) / "share"

    def built_bin_dirs(self) -> tuple[Path, ...]:
        """What to put before a user's PATH: the folders of built executables of which at least one is in use."""
        used = {tool.path.parent for tool in self.by_name.values() if tool.source is Source.BUILT}
        return tuple(sorted(used))


class Toolchain:
    """Finds the tools, and makes those that are missing."""

    def __init__(
        self,
        tools: Path | None = None,
        *,
        environment: Mapping[str, str] = os.environ,
        families: Sequence[Family] | None = None,
        packages: Sequence[debian.Package] = debian.PACKAGES,
    ) -> None:
        self.tools = default_paths(environment).tools if tools is None else tools
        self.path = foreign_path(debian.search_path(environment), (self.tools, REPOSITORY))
        found = load_families() if families is None else families
        self.families = sorted(found, key=lambda family: _rank(family.name))
        self.packages = packages

    def ensure(self, report: Callable[[str], None]) -> Tools:
        """All tools; installs and builds what is missing. Raises UserError that says what could not be had, and why."""
        debian.ensure_packages(report, self.packages, path=self.path)
        official = self._official()
        missing = [family for family in self.families if self._to_build(family, official)]
        if missing:
            build_families(missing, self.tools, report)
        return self._collect(official)

    def locate(self) -> Tools:
        """All tools, without making any. Raises UserError where one is missing."""
        official = self._official()
        absent = [family.name for family in self.families if self._to_build(family, official)]
        absent += [package.name for package in debian.missing_packages(self.packages, self.path)]
        if absent:
            raise UserError(f"tools are missing ({', '.join(absent)}): run `make up`, which installs and builds them")
        return self._collect(official)

    def _official(self) -> dict[str, Tool]:
        """The installed commands to use, by name."""
        choices = [official for family in self.families for official in family.official]
        with ThreadPoolExecutor(4) as pool:
            found = list(pool.map(lambda official: find_official(official, self.path), choices))
        return {tool.name: tool for tools in found for tool in tools}

    def _to_build(self, family: Family, official: Mapping[str, Tool]) -> bool:
        needed = bool(family.shares) or any(command not in official for command in family.commands)
        return needed and not family.folder(self.tools).is_dir()

    def _collect(self, official: Mapping[str, Tool]) -> Tools:
        by_name = dict(official)
        folders = {}
        for family in self.families:
            folder = family.folder(self.tools)
            if folder.is_dir():
                folders[family.name] = folder
            for command in family.commands:
                path = folder / "bin" / command
                built = Tool(name=command, path=path, source=Source.BUILT, version=family.version.removeprefix("v"))
                by_name.setdefault(command, built)
        for package in self.packages:
            for name in package.provides:
                located = debian.locate(name, self.path)
                if located is not None:
                    by_name[name] = Tool(name=name, path=located, source=Source.SYSTEM)
        return Tools(by_name=by_name, folders=folders)


def foreign_path(path: str, own: Sequence[Path]) -> str:
    """PATH without the folders below `own`: what this project put there is not an official tool."""
    kept = [
        folder
        for folder in path.split(":")
        if folder and not any(Path(folder).resolve().is_relative_to(mine.resolve()) for mine in own)
    ]
    return ":".join(kept)


def find_official(official: Official, path: str) -> tuple[Tool, ...]:
    """The installed commands if all are there, with all that they need, and new enough; else nothing."""
    located = {command: shutil.which(command, path=path) for command in official.commands}
    tools = []
    for name, place in located.items():
        if place is None:
            return ()
        beside = f"{Path(place).resolve().parent}:{path}"
        if any(shutil.which(need, path=beside) is None for need in official.needs):
            return ()
        version = command_version(Path(place), official.arguments)
        if version is None or not official.accepts(version):
            return ()
        tools.append(Tool(name=name, path=Path(place), source=Source.OFFICIAL, version=format_version(version)))
    return tuple(tools)


def _rank(family: str) -> int:
    return BUILD_ORDER.index(family) if family in BUILD_ORDER else len(BUILD_ORDER)


def main(arguments: Sequence[str]) -> None:
    """`python -m localcluster.toolchain`: makes what is missing and prints where each tool is from."""
    if arguments:
        raise UserError(f"python -m localcluster.toolchain takes no arguments, and got: {' '.join(arguments)}")
    progress = Progress()
    tools = Toolchain().ensure(progress.say)
    width = max(len(name) for name in tools.by_name)
    for name, tool in sorted(tools.by_name.items()):
        print(f"{name:<{width}}  {tool.source}  {tool.version or '-':<8}  {tool.path}")


if __name__ == "__main__":
    run(main, sys.argv[1:])
