"""Detached processes: known by more than a pid, restarted only for a change, ended for certain."""

import json
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from localcluster.process import Command, ProcessTable, start_ticks

SLEEP = Command(name="sleeper", argv=("/bin/sleep", "60"))
DEAF = "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"


@pytest.fixture
def table(tmp_path: Path) -> Iterator[ProcessTable]:
    table = ProcessTable(tmp_path / "run", tmp_path / "logs")
    yield table
    table.stop_all(table.names(), patience_s=0.2)


def eventually(check: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 10
    while not check() and time.monotonic() < deadline:
        time.sleep(0.02)
    return check()


def edit_record(table: ProcessTable, name: str, **changes: object) -> None:
    path = table.run / f"{name}.pid"
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


class TestOnlyTheVeryProcessCounts:
    def test_a_started_process_runs(self, table: ProcessTable) -> None:
        record = table.start(SLEEP)
        assert table.running("sleeper") == record
        assert table.names() == ["sleeper"]

    def test_a_recycled_pid_is_not_ours(self, table: ProcessTable) -> None:
        record = table.start(SLEEP)
        edit_record(table, "sleeper", start_ticks=record.start_ticks - 1)
        assert table.running("sleeper") is None
        edit_record(table, "sleeper", start_ticks=record.start_ticks)
        assert table.running("sleeper") is not None

    def test_nothing_runs_from_before_the_machine_started(self, table: ProcessTable) -> None:
        table.start(SLEEP)
        own = table.running("sleeper")
        assert own is not None
        edit_record(table, "sleeper", boot_id="an earlier one")
        assert table.running("sleeper") is None
        edit_record(table, "sleeper", boot_id=own.boot_id)

    def test_a_killed_one_that_nobody_waited_for_is_gone(self, table: ProcessTable) -> None:
        record = table.start(SLEEP)
        subprocess.run(["kill", "-9", str(record.pid)], check=True)
        assert eventually(lambda: table.running("sleeper") is None)
        assert start_ticks(record.pid) is None

    @pytest.mark.parametrize("content", ["", "17", "{}", '{"pid": 1}', "null"])
    def test_a_damaged_pid_file_is_no_process(self, table: ProcessTable, content: str) -> None:
        table.run.mkdir(parents=True)
        (table.run / "sleeper.pid").write_text(content)
        assert table.running("sleeper") is None


class TestAChangeMakesItAnother:
    def test_the_same_command_is_current(self, table: ProcessTable) -> None:
        table.start(SLEEP)
        assert table.is_current(SLEEP)

    @pytest.mark.parametrize(
        "changed", [replace(SLEEP, argv=("/bin/sleep", "61")), replace(SLEEP, environment={"LEVEL": "debug"})]
    )
    def test_another_command_line_or_environment_is_not(self, table: ProcessTable, changed: Command) -> None:
        table.start(SLEEP)
        assert not table.is_current(changed)

    def test_nor_is_another_content_of_a_configuration_file(self, table: ProcessTable, tmp_path: Path) -> None:
        config = tmp_path / "config"
        config.write_text("one")
        command = replace(SLEEP, config_files=(config,))
        table.start(command)
        assert table.is_current(command)
        config.write_text("two")
        assert not table.is_current(command)


class TestEnding:
    def test_it_ends_and_its_pid_file_goes(self, table: ProcessTable) -> None:
        record = table.start(SLEEP)
        assert table.stop("sleeper")
        assert start_ticks(record.pid) is None
        assert table.names() == []

    def test_one_that_ignores_the_request_is_killed(self, table: ProcessTable) -> None:
        record = table.start(Command(name="deaf", argv=(sys.executable, "-c", DEAF)))
        assert eventually(lambda: "deaf" in table.tail("deaf"))
        assert table.stop("deaf", patience_s=0.2)
        assert start_ticks(record.pid) is None

    def test_what_does_not_run_is_not_ended(self, table: ProcessTable) -> None:
        assert not table.stop("sleeper")

    def test_a_recycled_pid_is_left_alone(self, table: ProcessTable) -> None:
        record = table.start(SLEEP)
        edit_record(table, "sleeper", start_ticks=record.start_ticks - 1)
        assert not table.stop("sleeper")
        assert start_ticks(record.pid) == record.start_ticks
        subprocess.run(["kill", "-9", str(record.pid)], check=True)


class TestLogs:
    def test_a_restart_appends(self, table: ProcessTable) -> None:
        for word in ("first", "second"):
            table.start(Command(name="echo", argv=("/bin/echo", word)))
            assert eventually(lambda: table.running("echo") is None)
        assert table.tail("echo").split() == ["first", "second"]
        assert table.tail("echo", lines=1) == "second"

    def test_what_cannot_be_run_is_one_message(self, table: ProcessTable) -> None:
        with pytest.raises(UserError, match="ghost can't be started: /nowhere/ghost: No such file"):
            table.start(Command(name="ghost", argv=("/nowhere/ghost",)))
        assert table.running("ghost") is None
