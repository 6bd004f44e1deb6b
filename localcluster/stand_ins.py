"""Puts the stand-ins for Pulumi's own language host and Kubernetes provider on PATH, where the official ones are absent.

The official bundle ships the language host beside `pulumi` and downloads the provider into PULUMI_HOME; neither can be had
from package registries. Whatever official one is there is used, and what stands in is returned, so that it is said.
"""

import json
import os
import re
import shlex
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from engine_jobs.errors import UserError
from localcluster.paths import REPOSITORY

LANGUAGE_HOST = "pulumi-language-python"
PROVIDER = "pulumi-resource-kubernetes"
_MODULES = {
    LANGUAGE_HOST: "localcluster.pulumi_language_python",
    PROVIDER: "localcluster.pulumi_resource_kubernetes",
}
_MARK = "# A stand-in of llm-serving: see localcluster/stand_ins.py."


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """One executable of this repository in the place of an official one."""

    name: str
    launcher: Path
    reason: str


def ensure(
    bin_dir: Path, *, python: Path, pulumi: Path, environment: Mapping[str, str] = os.environ
) -> tuple[StandIn, ...]:
    """Writes the launchers that are needed into `bin_dir`, removes the others, and returns what stands in.

    `python` runs the stand-ins (it must have this repository's dependencies); `pulumi` is the CLI in use.
    """
    search = _foreign_path(environment.get("PATH", os.defpath), bin_dir)
    language_host = shutil.which(LANGUAGE_HOST, path=f"{pulumi.resolve().parent}{os.pathsep}{search}")
    reasons = {}
    # With an official bundle the provider is official as well: Pulumi downloads it by itself.
    if language_host is None:
        reasons[LANGUAGE_HOST] = "the official one is neither beside pulumi nor on PATH"
        if shutil.which(PROVIDER, path=search) is None and not _installed_provider(environment):
            reasons[PROVIDER] = "the official one is neither on PATH nor among Pulumi's installed plugins"
    for name in _MODULES:
        if name not in reasons:
            (bin_dir / name).unlink(missing_ok=True)
    return tuple(
        StandIn(name=name, launcher=_write_launcher(bin_dir / name, python, _MODULES[name]), reason=reason)
        for name, reason in reasons.items()
    )


def _foreign_path(path: str, bin_dir: Path) -> str:
    """PATH without the folders that hold launchers of ours, of this state or of another one."""
    kept = [folder for folder in path.split(os.pathsep) if folder and not _holds_launcher(Path(folder), bin_dir)]
    return os.pathsep.join(kept)


def _holds_launcher(folder: Path, bin_dir: Path) -> bool:
    if folder.resolve() == bin_dir.resolve():
        return True
    for name in _MODULES:
        try:
            if _MARK in (folder / name).read_bytes()[:400].decode(errors="replace"):
                return True
        except OSError:
            continue
    return False


def _installed_provider(environment: Mapping[str, str]) -> bool:
    """Whether Pulumi's plugin folder has a Kubernetes provider that fits the SDK: same major version, not older."""
    home = Path(environment.get("PULUMI_HOME") or Path(environment.get("HOME") or Path.home()) / ".pulumi")
    needed = _numbers(version("pulumi-kubernetes"))
    for folder in (home / "plugins").glob("resource-kubernetes-v*"):
        found = _numbers(folder.name.removeprefix("resource-kubernetes-v"))
        if (folder / PROVIDER).exists() and found[:1] == needed[:1] and found >= needed:
            return True
    return False


def _numbers(text: str) -> tuple[int, ...]:
    return tuple(int(number) for number in re.findall(r"\d+", text.partition("-")[0])[:3])


def _write_launcher(path: Path, python: Path, module: str) -> Path:
    """A shell script, because the engine starts plugins by name; PYTHONPATH would reach the user's program as well."""
    start = f"import sys; sys.path.insert(0, {json.dumps(str(REPOSITORY))}); from {module}.__main__ import main; main()"
    script = f'#!/bin/sh\n{_MARK}\nexec {shlex.quote(str(python))} -P -c {shlex.quote(start)} "$@"\n'
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        if not path.exists() or path.read_text() != script:
            partial = path.with_name(f".{path.name}.{os.getpid()}")
            partial.write_text(script)
            partial.chmod(0o755)
            partial.replace(path)
    except OSError as error:
        raise UserError(f"can't write the launcher {path}: {error.strerror or error}") from None
    return path
