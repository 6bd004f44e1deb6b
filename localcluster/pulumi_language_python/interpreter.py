"""Which Python runs a program: the runtime options of Pulumi.yaml, as the official language host reads them."""

import json
import os
import shutil
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_KNOWN_TOOLCHAINS = ("pip", "uv")


class OptionError(Exception):
    """A runtime option of Pulumi.yaml that can't be followed."""


@dataclass(frozen=True, kw_only=True)
class Interpreter:
    """A Python executable and the environment it runs in."""

    executable: Path
    virtualenv: Path | None

    def environment(self, base: Mapping[str, str] = os.environ) -> dict[str, str]:
        """The environment of a child: what activating the virtual environment would set."""
        environment = dict(base)
        if self.virtualenv is not None:
            environment["VIRTUAL_ENV"] = str(self.virtualenv)
            environment["PATH"] = os.pathsep.join([str(self.virtualenv / "bin"), base.get("PATH", os.defpath)])
            environment.pop("PYTHONHOME", None)
        return environment

    def evaluate(self, code: str) -> Any:
        """Runs code in this Python, isolated, and returns the JSON that it prints."""
        done = subprocess.run(
            [self.executable, "-I", "-c", code], env=self.environment(), capture_output=True, text=True, timeout=60
        )
        if done.returncode != 0:
            raise OptionError(f"{self.executable} doesn't run: {done.stderr.strip() or done.returncode}")
        return json.loads(done.stdout)


def virtualenv_of(options: Mapping[str, Any], root: Path) -> Path | None:
    """The virtual environment that Pulumi.yaml names (relative to the project's root), made or not; None: none named."""
    if unsupported := options.get("typechecker"):
        raise OptionError(
            f"Pulumi.yaml asks for the typechecker {unsupported!r}, which this stand-in language host doesn't run: "
            "remove runtime.options.typechecker, or install the official Pulumi bundle"
        )
    toolchain = options.get("toolchain", "pip")
    if toolchain not in _KNOWN_TOOLCHAINS:
        raise OptionError(
            f"Pulumi.yaml asks for the toolchain {toolchain!r}, which this stand-in language host doesn't know: "
            f"use one of {', '.join(_KNOWN_TOOLCHAINS)}, or install the official Pulumi bundle"
        )
    named = options.get("virtualenv", ".venv" if toolchain == "uv" else "")
    if not isinstance(named, str):
        raise OptionError("Pulumi.yaml: runtime.options.virtualenv must be a path")
    return Path(os.path.normpath(root / named)) if named else None


def interpreter_of(options: Mapping[str, Any], root: Path) -> Interpreter:
    """The Python to use; raises OptionError where the named virtual environment is missing."""
    virtualenv = virtualenv_of(options, root)
    if virtualenv is not None:
        executable = virtualenv / "bin" / "python"
        if not executable.exists():
            raise OptionError(
                f"Pulumi.yaml names the virtual environment {virtualenv}, and there is no Python in it: "
                "make it (`pulumi install`, or `python3 -m venv` and `pip install`) or correct runtime.options.virtualenv"
            )
        return Interpreter(executable=executable, virtualenv=virtualenv)
    named = os.environ.get("PULUMI_PYTHON_CMD")
    for command in (named,) if named else ("python3", "python"):
        if found := shutil.which(command):
            return Interpreter(executable=Path(found), virtualenv=None)
    raise OptionError(f"no {named or 'python3'} on PATH: install Python, or set PULUMI_PYTHON_CMD")
