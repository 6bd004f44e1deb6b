"""A throw-away Pulumi project with a backend of its own, run by the real engine."""

import json
import os
import signal
import subprocess
from dataclasses import dataclass, field
from pathlib import Path
from textwrap import dedent
from typing import Any

from localcluster.paths import REPOSITORY

_TIMEOUT_S = 120


@dataclass(frozen=True, kw_only=True)
class Run:
    """A finished pulumi command."""

    exit_code: int
    output: str  # stdout and stderr together

    def ok(self) -> "Run":
        """Itself, if the command succeeded."""
        assert self.exit_code == 0, self.output
        return self

    def failed(self) -> "Run":
        """Itself, if the command failed, and not by a mistake of ours."""
        assert self.exit_code != 0, self.output
        assert "Traceback" not in self.output, self.output
        return self


@dataclass(kw_only=True)
class Project:
    """One project with the stack `test`."""

    folder: Path
    pulumi: Path
    stand_ins: tuple[Path, ...]
    environment: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        (self.folder / "backend").mkdir(parents=True)
        (self.folder / "Pulumi.yaml").write_text(
            json.dumps(
                {
                    "name": "trial",
                    "runtime": {"name": "python", "options": {"virtualenv": str(REPOSITORY / ".venv")}},
                }
            )
        )
        (self.folder / "__main__.py").write_text("")
        self.run("stack", "init", "test").ok()

    def process_environment(self) -> dict[str, str]:
        """What pulumi is started with."""
        inherited = {key: value for key, value in os.environ.items() if not key.startswith(("PULUMI_", "KUBE"))}
        return {
            **inherited,
            "PATH": ":".join([*map(str, self.stand_ins), str(self.pulumi.parent), os.environ["PATH"]]),
            "PULUMI_BACKEND_URL": f"file://{self.folder / 'backend'}",
            "PULUMI_CONFIG_PASSPHRASE": "test",
            "PULUMI_HOME": str(self.folder / "home"),
            "PULUMI_SKIP_UPDATE_CHECK": "true",
            "PULUMI_DISABLE_AUTOMATIC_PLUGIN_ACQUISITION": "true",
            **self.environment,
        }

    def program(self, text: str) -> "Project":
        """Makes this the program: `k8s` and `pulumi` are imported."""
        head = "import pulumi\nimport pulumi_kubernetes as k8s\n"
        (self.folder / "__main__.py").write_text(head + dedent(text))
        return self

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        """A pulumi command that runs on."""
        return subprocess.Popen(
            [self.pulumi, "--non-interactive", "--color=never", *arguments],
            cwd=self.folder,
            env=self.process_environment(),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def finish(self, process: subprocess.Popen[str]) -> Run:
        """Waits for a started command."""
        try:
            output, _ = process.communicate(timeout=_TIMEOUT_S)
        except subprocess.TimeoutExpired:
            os.killpg(process.pid, signal.SIGKILL)
            output, _ = process.communicate()
            raise AssertionError(f"pulumi didn't end within {_TIMEOUT_S} s:\n{output}") from None
        return Run(exit_code=process.returncode, output=output)

    def run(self, *arguments: str) -> Run:
        """A pulumi command, to its end."""
        return self.finish(self.start(*arguments))

    def up(self, *arguments: str) -> Run:
        return self.run("up", "--yes", "--skip-preview", "--stack=test", *arguments)

    def preview(self, *arguments: str) -> Run:
        return self.run("preview", "--diff", "--stack=test", *arguments)

    def destroy(self, *arguments: str) -> Run:
        return self.run("destroy", "--yes", "--skip-preview", "--stack=test", *arguments)

    def export(self) -> dict[str, Any]:
        """The state as it is kept: secrets are ciphertext."""
        exported: dict[str, Any] = json.loads(self.run("stack", "export", "--stack=test").ok().output)
        return exported

    def resources(self, kind: str) -> list[dict[str, Any]]:
        """The recorded resources of a kind (`ConfigMap`)."""
        found = self.export()["deployment"].get("resources") or []
        return [entry for entry in found if entry["type"].endswith(f":{kind}")]

    def resource(self, kind: str) -> dict[str, Any]:
        """The one resource of a kind."""
        (found,) = self.resources(kind)
        return found
