"""Puts the stand-ins for Pulumi's language host and Kubernetes provider on PATH, where the official ones are absent.

Each has a folder of its own with one launcher, since each stands in on its own. The engine says when it uses one
("using pulumi-resource-kubernetes from $PATH"), and so does `up`.
"""

import os
import shlex
import shutil
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from localcluster.paths import REPOSITORY, Paths
from localcluster.toolchain import Tools, foreign_path


@dataclass(frozen=True, kw_only=True)
class StandIn:
    """`name`: of the executable that the engine looks for; `plugin`: of its folders in the engine's plugin store."""

    name: str
    module: str
    plugin: str
    what: str


LANGUAGE_HOST = StandIn(
    name="pulumi-language-python",
    module="localcluster.pulumi_language_python",
    plugin="language-python-v",
    what="Pulumi's language host for Python",
)
KUBERNETES_PROVIDER = StandIn(
    name="pulumi-resource-kubernetes",
    module="localcluster.pulumi_resource_kubernetes",
    plugin="resource-kubernetes-v",
    what="Pulumi's Kubernetes provider",
)


def needed(paths: Paths, tools: Tools, environment: Mapping[str, str] = os.environ) -> list[StandIn]:
    """The stand-ins whose official ones are not beside the engine, not on PATH and not in the plugin store.

    Where the language host is official, the machine has the official bundle, which downloads its provider by itself.
    """
    path = foreign_path(environment.get("PATH", os.defpath), (paths.cache, REPOSITORY))
    beside = tools.bin("pulumi").resolve().parent
    home = Path(environment.get("PULUMI_HOME") or Path(environment.get("HOME", "~")).expanduser() / ".pulumi")

    def is_official(stand_in: StandIn) -> bool:
        installed = shutil.which(stand_in.name, path=f"{beside}:{path}") is not None
        return installed or any(folder.is_dir() for folder in (home / "plugins").glob(f"{stand_in.plugin}*"))

    if is_official(LANGUAGE_HOST):
        return []
    return [LANGUAGE_HOST] if is_official(KUBERNETES_PROVIDER) else [LANGUAGE_HOST, KUBERNETES_PROVIDER]


def ensure(paths: Paths, stand_in: StandIn) -> Path:
    """Writes its launcher where it is missing or differs; returns the folder for PATH."""
    folder = paths.cache / "stand-ins" / stand_in.name
    launcher = folder / stand_in.name
    text = launcher_text(stand_in)
    if not launcher.exists() or launcher.read_text() != text:
        folder.mkdir(parents=True, exist_ok=True)
        draft = folder / f"{stand_in.name}.new"
        draft.write_text(text)
        draft.chmod(0o755)
        draft.replace(launcher)
    return folder


def launcher_text(stand_in: StandIn) -> str:
    """A shell script that runs the module in this Python, wherever the engine starts it."""
    start = (
        f"import runpy, sys; sys.path.insert(0, {str(REPOSITORY)!r}); "
        f"runpy.run_module({stand_in.module!r}, run_name='__main__', alter_sys=True)"
    )
    return f'#!/bin/sh\nexec {shlex.quote(f"{sys.prefix}/bin/python3")} -P -c {shlex.quote(start)} "$@"\n'
