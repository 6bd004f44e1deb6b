"""The stand-in language host under the real engine: programs, their failures, configuration, hooks and their end."""

import os
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.engine.project import Project


@pytest.fixture
def project(new_project: Callable[..., Project]) -> Project:
    return new_project()


def _children_of(marker: str) -> list[int]:
    """The processes whose environment holds a marker."""
    found = []
    for folder in Path("/proc").iterdir():
        try:
            if folder.name.isdigit() and marker.encode() in (folder / "environ").read_bytes():
                found.append(int(folder.name))
        except OSError:
            continue
    return [pid for pid in found if pid != os.getpid()]


class TestAProgram:
    def test_sees_its_configuration_stack_and_folder(self, project: Project) -> None:
        project.run("config", "set", "--stack=test", "plain", "1")
        project.run("config", "set", "--stack=test", "--secret", "hidden", "swordfish")
        (project.folder / "beside.py").write_text("VALUE = 'imported'")
        project.program("""
            import os, sys
            import beside
            config = pulumi.Config()
            pulumi.export("seen", {
                "plain": config.require_int("plain"),
                "stack": pulumi.get_stack(), "project": pulumi.get_project(), "organization": pulumi.get_organization(),
                "preview": pulumi.runtime.is_dry_run(), "folder": os.getcwd(), "beside": beside.VALUE,
                "root": pulumi.get_root_directory(), "in_venv": sys.prefix != sys.base_prefix,
                "clean_path": not any("pulumi_language_python" in entry for entry in sys.path),
            })
            pulumi.export("hidden", config.require_secret("hidden"))
            print("a line of the program")
        """)
        output = project.up().ok().output
        assert "a line of the program" in output
        assert "swordfish" not in output
        outputs = next(r for r in project.export()["deployment"]["resources"] if "outputs" in r)["outputs"]
        assert outputs["seen"] == {
            "plain": 1,
            "stack": "test",
            "project": "trial",
            "organization": "organization",
            "preview": False,
            "folder": str(project.folder),
            "beside": "imported",
            "root": str(project.folder),
            "in_venv": True,
            "clean_path": True,
        }
        assert "ciphertext" in outputs["hidden"]

    def test_runs_resource_hooks(self, project: Project) -> None:
        project.program("""
            async def say(args):
                print(f"hook ran after {args.name}", flush=True)

            hook = pulumi.ResourceHook("say", say)
            component = pulumi.ComponentResource(
                "test:index:Component", "part", None,
                pulumi.ResourceOptions(hooks=pulumi.ResourceHookBinding(after_create=[hook])),
            )
            component.register_outputs({})
        """)
        assert "hook ran after part" in project.up().ok().output

    def test_that_fails_with_a_run_error_shows_the_message_and_nothing_else(self, project: Project) -> None:
        project.program('raise pulumi.RunError("models.bloom: there is no such model: correct the stack file")')
        output = project.up().failed().output
        assert "error: models.bloom: there is no such model: correct the stack file" in output
        assert "exit code" not in output

    def test_that_fails_unexpectedly_shows_its_own_traceback(self, project: Project) -> None:
        project.program("def f():\n    return {}['missing']\nf()")
        done = project.up()
        assert done.exit_code != 0
        assert "KeyError: 'missing'" in done.output and "__main__.py" in done.output
        assert "runpy" not in done.output and "program.py" not in done.output

    def test_that_ends_itself_reports_its_exit_code(self, project: Project) -> None:
        project.program("import sys\nsys.exit(7)")
        assert "exit code: 7" in project.up().failed().output


class TestTheEnd:
    PROGRAM = "import time\nprint('started', flush=True)\ntime.sleep(600)"

    def _running(self, project: Project, marker: str) -> list[int]:
        """The child processes, once the program runs."""
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            commands = [Path(f"/proc/{pid}/cmdline") for pid in _children_of(marker)]
            if any(b"program.py" in path.read_bytes() for path in commands if path.exists()):
                return _children_of(marker)
            time.sleep(0.3)
        raise AssertionError("the program didn't start")

    @pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
    def test_of_the_engine_is_the_end_of_the_program(
        self, new_project: Callable[..., Project], number: signal.Signals
    ) -> None:
        marker = f"LLM_SERVING_TEST_MARK={os.getpid()}-{number}"
        name, _, value = marker.partition("=")
        project = new_project(**{name: value}).program(self.PROGRAM)
        process = project.start("up", "--yes", "--skip-preview", "--stack=test")
        assert len(self._running(project, marker)) >= 3, "pulumi, the language host and the program"
        process.send_signal(number)
        process.wait(30)
        deadline = time.monotonic() + 15
        while _children_of(marker) and time.monotonic() < deadline:
            time.sleep(0.3)
        assert _children_of(marker) == []
        process.communicate()


class TestAVirtualEnvironment:
    def test_that_is_missing_is_named_with_what_to_do(self, project: Project) -> None:
        definition = project.folder / "Pulumi.yaml"
        definition.write_text("name: trial\nruntime:\n  name: python\n  options:\n    virtualenv: absent\n")
        output = project.program("").up().failed().output
        assert f"{project.folder / 'absent'}, and there is no Python in it" in output
        assert "pulumi install" in output
