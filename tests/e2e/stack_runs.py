"""A stack of its own for a test: the `local` stack's settings with another namespace, run by the real Pulumi engine."""

import copy
import json
import subprocess
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from stacks.settings import PROJECT, STACKS_DIR, read_stack_file, stack_file

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True, kw_only=True)
class Ended:
    """How a pulumi command ended: its exit code, and all that it printed."""

    code: int
    output: str


@dataclass(kw_only=True)
class TestStack:
    """`config` is what the stack file says, without the project's prefix; it is written before each command."""

    __test__ = False

    name: str
    file: Path
    environment: Mapping[str, str]
    config: dict[str, Any]

    @property
    def namespace(self) -> str:
        return str(self.config["platform"]["namespace"])

    @property
    def model(self) -> dict[str, Any]:
        model: dict[str, Any] = self.config["models"]["tiny-bloom"]
        return model

    def command(self, *arguments: str) -> list[str]:
        """The command line, after the stack file has been written (what Pulumi itself keeps there is kept)."""
        kept = yaml.safe_load(self.file.read_text()) if self.file.exists() else {}
        kept["config"] = {f"{PROJECT}:{key}": value for key, value in self.config.items()}
        self.file.write_text(yaml.safe_dump(kept))
        return ["pulumi", *arguments, "--stack", self.name, "--config-file", str(self.file), "--non-interactive"]

    def start(self, *arguments: str) -> subprocess.Popen[str]:
        return subprocess.Popen(
            self.command(*arguments),
            cwd=ROOT,
            env=dict(self.environment),
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            start_new_session=True,
        )

    def run(self, *arguments: str) -> Ended:
        process = self.start(*arguments)
        output, _ = process.communicate(timeout=540)
        return Ended(code=process.returncode, output=output)

    def up(self, *arguments: str) -> Ended:
        return self.run("up", "--yes", "--skip-preview", "--suppress-progress", *arguments)

    def outputs(self) -> dict[str, Any]:
        command = ("pulumi", "stack", "output", "--json", "--stack", self.name)
        found = subprocess.run(command, cwd=ROOT, env=dict(self.environment), stdout=subprocess.PIPE, check=True)
        outputs: dict[str, Any] = json.loads(found.stdout)
        return outputs

    def export(self) -> str:
        command = ("pulumi", "stack", "export", "--stack", self.name)
        return subprocess.run(
            command, cwd=ROOT, env=dict(self.environment), stdout=subprocess.PIPE, check=True, text=True
        ).stdout

    def create(self) -> None:
        """Makes the stack; the file with its salt, which Pulumi lays beside the project's own, becomes this stack's."""
        subprocess.run(
            ("pulumi", "stack", "init", self.name, "--no-select", "--non-interactive"),
            cwd=ROOT,
            env=dict(self.environment),
            check=True,
        )
        made = STACKS_DIR / f"Pulumi.{self.name}.yaml"
        self.file.write_text(made.read_text())
        made.unlink()

    def remove(self) -> None:
        """Destroys what the stack made and forgets it."""
        subprocess.run(
            ("pulumi", "cancel", "--yes", "--stack", self.name), cwd=ROOT, env=dict(self.environment), check=False
        )
        ended = self.run("destroy", "--yes", "--skip-preview", "--suppress-progress")
        assert ended.code == 0, ended.output
        subprocess.run(
            ("pulumi", "stack", "rm", self.name, "--yes", "--preserve-config", "--non-interactive"),
            cwd=ROOT,
            env=dict(self.environment),
            check=True,
        )


def local_config(namespace: str, prefix: str, models: Collection[str] = ("tiny-bloom",)) -> dict[str, Any]:
    """The `local` stack's config with these models, in another namespace, with another folder of the stores."""
    config = copy.deepcopy(read_stack_file(stack_file("local")))
    config["models"] = {name: config["models"][name] for name in models}
    config["platform"]["namespace"] = namespace
    for store in config["platform"]["stores"].values():
        bucket = "/".join(store["url"].split("/")[:3])
        store["url"] = f"{bucket}/{prefix}"
    return config
