"""The process that runs a Pulumi program: how it is started, interrupted and awaited."""

import json
import os
import signal
import subprocess
import threading
from pathlib import Path
from typing import Any

from localcluster.pulumi_language_python.interpreter import Interpreter
from localcluster.pulumi_language_python.program import PARENT_VARIABLE

_PROGRAM = Path(__file__).with_name("program.py")
# As long as the official language host gives a program to end after SIGINT.
_INTERRUPT_GRACE_S = 5.0


def command_line(request: Any, engine: str) -> list[str]:
    """The arguments of program.py for a RunRequest."""
    options = {
        "monitor": request.monitor_address,
        "engine": engine,
        "project": request.project,
        "root_directory": request.info.root_directory,
        "stack": request.stack,
        "pwd": request.pwd,
        "dry_run": "true" if request.dryRun else "false",
        "parallel": str(request.parallel),
        "organization": request.organization,
    }
    given = [part for name, value in options.items() if value for part in (f"--{name}", value)]
    return [*given, request.info.entry_point or ".", *request.args]


def environment(request: Any, interpreter: Interpreter) -> dict[str, str]:
    """The child's environment: the stack's configuration beside the virtual environment's variables."""
    return {
        **interpreter.environment(),
        "PULUMI_CONFIG": json.dumps(dict(request.config)),
        "PULUMI_CONFIG_SECRET_KEYS": json.dumps(list(request.configSecretKeys)),
        PARENT_VARIABLE: str(os.getpid()),
    }


class ProgramProcess:
    """One running program. Its output goes where the language host's own goes: to the engine, which shows it."""

    def __init__(self, request: Any, interpreter: Interpreter, engine: str) -> None:
        self._interrupting = threading.Lock()
        self._process = subprocess.Popen(
            [interpreter.executable, "-u", _PROGRAM, *command_line(request, engine)],
            env=environment(request, interpreter),
            stdin=subprocess.DEVNULL,
        )

    def wait(self) -> int:
        """The exit code; negative for the signal that ended it."""
        return self._process.wait()

    def interrupt(self) -> None:
        """SIGINT, and SIGKILL where that is not followed in time. Does nothing to a program that has ended."""
        with self._interrupting:
            if self._process.poll() is not None:
                return
            self._process.send_signal(signal.SIGINT)
            try:
                self._process.wait(_INTERRUPT_GRACE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
