"""Detached processes that outlive the command that started them, known by a pid file each.

There is no supervisor: `up` compares what runs with what should run, and starts what is missing or has changed.
A pid file holds the pid, the process's start time and the boot it belongs to, so that a recycled pid is never mistaken
for ours, and a fingerprint of the command line, the environment and the configuration files: a change restarts it.
"""

import hashlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path

from engine_jobs.errors import UserError

LOG_LIMIT_BYTES = 32 << 20

# Components get this and their own variables only, so that nothing of a user's shell changes how they behave.
INHERITED = {
    "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
    "HOME": str(Path("~root").expanduser()),
    "LANG": "C.UTF-8",
}


@dataclass(frozen=True, kw_only=True)
class Command:
    """One process as it should run. `environment` is added to a minimal one; `config_files` count by their contents."""

    name: str
    argv: tuple[str, ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    config_files: tuple[Path, ...] = ()

    def fingerprint(self) -> str:
        """64 hex digits over everything that makes the process what it is."""
        contents = [hashlib.sha256(path.read_bytes()).hexdigest() for path in self.config_files]
        described = json.dumps([self.argv, sorted(self.environment.items()), contents])
        return hashlib.sha256(described.encode()).hexdigest()


@dataclass(frozen=True, kw_only=True)
class Record:
    """What a pid file holds. `since` is in seconds since the epoch, `start_ticks` as in /proc/PID/stat."""

    pid: int
    start_ticks: int
    boot_id: str
    fingerprint: str
    since: float


def boot_id() -> str:
    return Path("/proc/sys/kernel/random/boot_id").read_text().strip()


def start_ticks(pid: int) -> int | None:
    """When the process started, in clock ticks since boot; None where it is gone, or only a zombie of it is left.

    A zombie with threads is still ending, and holds its sockets.
    """
    try:
        stat = Path(f"/proc/{pid}/stat").read_text()
    except OSError:
        return None
    state, *fields = stat[stat.rindex(")") + 2 :].split()
    threads, start = int(fields[16]), int(fields[18])
    return None if state in "ZX" and threads <= 1 else start


class ProcessTable:
    """The processes of one cluster state: pid files in `run`, one log each in `logs`."""

    def __init__(self, run: Path, logs: Path) -> None:
        self.run = run
        self.logs = logs

    def log(self, name: str) -> Path:
        return self.logs / f"{name}.log"

    def names(self) -> list[str]:
        """Those with a pid file, whether they still run or not."""
        return sorted(path.stem for path in self.run.glob("*.pid"))

    def running(self, name: str) -> Record | None:
        """The record of the process by this name, if that very process is alive."""
        try:
            record = Record(**json.loads((self.run / f"{name}.pid").read_text()))
        except (OSError, ValueError, TypeError):
            return None
        alive = record.boot_id == boot_id() and record.start_ticks == start_ticks(record.pid)
        return record if alive else None

    def is_current(self, command: Command) -> bool:
        record = self.running(command.name)
        return record is not None and record.fingerprint == command.fingerprint()

    def start(self, command: Command) -> Record:
        """Starts it in a session of its own, its output appended to its log. Raises UserError if it can't be run."""
        for folder in (self.run, self.logs):
            folder.mkdir(parents=True, exist_ok=True)
        log = self.log(command.name)
        if log.exists() and log.stat().st_size > LOG_LIMIT_BYTES:
            log.replace(log.with_suffix(".log.1"))
        with log.open("ab") as output:
            try:
                process = subprocess.Popen(
                    command.argv,
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env={**INHERITED, **command.environment},
                    cwd="/",
                    start_new_session=True,
                )
            except OSError as error:
                raise UserError(f"{command.name} can't be started: {command.argv[0]}: {error.strerror}") from error
        ticks = start_ticks(process.pid)
        record = Record(
            pid=process.pid,
            start_ticks=-1 if ticks is None else ticks,
            boot_id=boot_id(),
            fingerprint=command.fingerprint(),
            since=time.time(),
        )
        pid_file = self.run / f"{command.name}.pid"
        draft = pid_file.with_suffix(".new")
        draft.write_text(json.dumps(asdict(record)))
        draft.replace(pid_file)
        return record

    def stop(self, name: str, *, patience_s: float = 10.0) -> bool:
        """Ends the process by SIGTERM, by SIGKILL after `patience_s`; says whether there was one to end."""
        return self.stop_all([name], patience_s=patience_s) == [name]

    def stop_all(self, names: Sequence[str], *, patience_s: float = 10.0) -> list[str]:
        """Ends them all at once; returns the names of those that were running."""
        records = {name: record for name in names if (record := self.running(name)) is not None}
        for signal_number, patience in ((signal.SIGTERM, patience_s), (signal.SIGKILL, 10.0)):
            deadline = time.monotonic() + patience
            for name, record in records.items():
                if self.running(name) is not None:
                    _signal(record.pid, signal_number)
            while any(self.running(name) for name in records) and time.monotonic() < deadline:
                time.sleep(0.05)
        for name in names:
            (self.run / f"{name}.pid").unlink(missing_ok=True)
        return list(records)

    def tail(self, name: str, lines: int = 15) -> str:
        """The last lines of its log, or a word that there is none."""
        try:
            text = self.log(name).read_text(errors="replace")
        except OSError:
            return "(no log)"
        return "\n".join(text.splitlines()[-lines:])


def _signal(pid: int, number: int) -> None:
    try:
        os.kill(pid, number)
    except ProcessLookupError:
        return
