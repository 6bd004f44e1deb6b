"""`make up`, `make down` and `make test`: the local cluster and the `local` stack of the Pulumi program, end to end."""

import argparse
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from engine_jobs.errors import UserError, run
from localcluster.paths import REPOSITORY, default_paths
from localcluster.pulumi_lock import release_stale_lock

STACK = "local"
ALL = "all"
TESTS = ("tests/unit", "tests/golden", "tests/triton", "tests/engine", "tests/e2e")


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m localcluster.local_stack", description=__doc__)
    commands = parser.add_subparsers(dest="command", required=True)
    profile = commands.add_parser("up").add_argument
    profile("--profile", default=ALL, help="models or recipes of the stack file, separated by commas; default: all")
    commands.add_parser("down")
    commands.add_parser("test")
    arguments = parser.parse_args(argv)
    match arguments.command:
        case "up":
            up(arguments.profile)
        case "down":
            down()
        case _:
            test()


def up(profile: str = ALL) -> None:
    """Cluster and stack up, and what it cost. A failure ends the cluster if it was not running before; its state stays."""
    began = time.monotonic()
    was_running = cluster_is_running()
    config_file().parent.mkdir(parents=True, exist_ok=True)
    config_file().write_text(_stacks("select", "--stack", STACK, *profile.split(",")))
    images = _stacks("images", "--file", str(config_file())).split()
    try:
        _cluster("up", "--images", *images)
        environment = stack_environment()
        applying = time.monotonic()
        pulumi_up(environment)
        _summary(environment, pulumi_seconds=time.monotonic() - applying, total_seconds=time.monotonic() - began)
    except BaseException:
        if not was_running:
            print("ending the cluster that this run started; its state and the caches stay", file=sys.stderr)
            _cluster("down", "--keep-state", check=False)
        raise


def down() -> None:
    """Stack and cluster gone. Where the cluster can't be reached, its objects go with its state."""
    if cluster_is_running():
        environment = stack_environment()
        release_stale_lock(default_paths().pulumi, STACK)
        if _stack_exists(environment):
            destroy = ("destroy", "--yes", "--skip-preview", "--suppress-progress")
            if _pulumi(environment, *destroy, *_stack(), check=False) != 0:
                print("warning: the stack was not destroyed cleanly; it goes with the cluster", file=sys.stderr)
    _cluster("down")


def test() -> None:
    """Static checks, then every test, the end-to-end ones on the cluster. Some end it: afterwards it is as it was before,
    up again with the stack, or gone."""
    was_running = cluster_is_running()
    try:
        _run(("make", "--no-print-directory", "check"))
        up()
        _run((sys.executable, "-m", "pytest", *TESTS), environment=stack_environment())
    finally:
        if was_running:
            up()
        else:
            down()


def cluster_is_running() -> bool:
    status = (sys.executable, "-m", "localcluster", "status")
    return subprocess.run(status, cwd=REPOSITORY, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL).returncode == 0


def stack_environment() -> dict[str, str]:
    """This process's environment with what `python -m localcluster env` exports; Pulumi's backend needs its folder."""
    from localcluster.environment import exports

    default_paths().pulumi.mkdir(parents=True, exist_ok=True)
    return {**os.environ, **exports(default_paths())}


def pulumi_up(environment: dict[str, str]) -> None:
    """`pulumi up` of the stack, which is made where it is not there. Raises UserError where it fails."""
    release_stale_lock(default_paths().pulumi, STACK)
    if not _stack_exists(environment):
        _pulumi(environment, "stack", "init", STACK, "--no-select")
    elif _was_killed(environment):
        _pulumi(environment, "refresh", "--yes", "--skip-preview", "--clear-pending-creates", *_stack())
    if _pulumi(environment, "up", "--yes", "--skip-preview", "--suppress-outputs", *_stack(), check=False) != 0:
        raise UserError(
            "`pulumi up` failed: see its diagnostics above. What served before still serves; mend it and `make up` again"
        )


def config_file() -> Path:
    """The stack file of what `up` was last asked for: the committed one, with the profile's models."""
    return default_paths().state / "stack" / f"Pulumi.{STACK}.yaml"


def _stack() -> tuple[str, ...]:
    return ("--stack", STACK, "--config-file", str(config_file()))


def _was_killed(environment: dict[str, str]) -> bool:
    """Whether an `up` ended in the middle of something: Pulumi then does not know what became of it, until a refresh."""
    exported = _pulumi_output(environment, "stack", "export", "--stack", STACK)
    return bool(json.loads(exported)["deployment"].get("pending_operations"))


def _stack_exists(environment: dict[str, str]) -> bool:
    listed = _pulumi_output(environment, "stack", "ls", "--json")
    return any(stack["name"].split("/")[-1] == STACK for stack in json.loads(listed))


def _pulumi(environment: dict[str, str], *arguments: str, check: bool = True) -> int:
    return _run(("pulumi", *arguments, "--non-interactive"), environment=environment, check=check)


def _pulumi_output(environment: dict[str, str], *arguments: str) -> str:
    """What the command prints. Raises UserError where it fails; it has said why."""
    command = ("pulumi", *arguments, "--non-interactive")
    ended = subprocess.run(command, cwd=REPOSITORY, env=environment, stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        raise UserError(f"`{' '.join(command)}` failed: see what it says above")
    return ended.stdout


def _stacks(*arguments: str) -> str:
    """What `python -m stacks` prints of the stack file; where it fails this program ends with it (it has said why)."""
    command = (sys.executable, "-m", "stacks", *arguments)
    ended = subprocess.run(command, cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    if ended.returncode != 0:
        sys.exit(ended.returncode)
    return ended.stdout


def _cluster(*arguments: str, check: bool = True) -> None:
    _run((sys.executable, "-m", "localcluster", *arguments), check=check)


def _run(command: Sequence[str], *, environment: dict[str, str] | None = None, check: bool = True) -> int:
    """The command's exit code; where `check` and it is not 0, this program ends with it (the command has said why)."""
    code = subprocess.run(command, cwd=REPOSITORY, env=environment).returncode
    if check and code != 0:
        sys.exit(code)
    return code


def _summary(environment: dict[str, str], *, pulumi_seconds: float, total_seconds: float) -> None:
    outputs = _pulumi_output(environment, "stack", "output", "--stack", STACK, "--json")
    models: dict[str, Any] = json.loads(outputs)["models"]
    for name, model in models.items():
        verdict = model["smokeTest"]
        print(f"\n{name}")
        print(f"  endpoint  {model['url']}  (Host: {model['host']})")
        print(f"  question  {verdict['request']}")
        print(f"  answer    {verdict['answer']}  ({verdict['seconds']} s)")
    phases = json.loads(default_paths().timings.read_text())["phases"]
    rows = [*phases.items(), ("pulumi up", pulumi_seconds), ("total", total_seconds)]
    width = max(len(name) for name, _ in rows)
    print(f"\n{'phase':<{width}}  seconds")
    for name, seconds in rows:
        print(f"{name:<{width}}  {seconds:7.1f}")


if __name__ == "__main__":
    run(main)
