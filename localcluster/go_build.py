"""Builds tool families from their Go modules with the ordinary `go build`, two at a time, and says how far it is.

A family is built in a folder beside its own and renamed when all of it is there and its executable has answered, so what
has the final name is complete. A link keeps one core busy and a download none: the second build, at a lower priority,
uses what the first leaves idle.
"""

import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor, as_completed
from pathlib import Path

from engine_jobs.errors import UserError
from localcluster.lock import exclusive
from localcluster.tool_families import Family, Version, format_version, parse_version

# The largest package of them all (the AWS SDK's EC2 client, in Traefik) takes the compiler 2.4 GB.
MEMORY_OF_TWO_BUILDS_BYTES = 8 << 30
REPORT_INTERVAL_S = 15.0
_STAGING = ".building-"


def build_families(families: Sequence[Family], tools: Path, report: Callable[[str], None]) -> None:
    """Puts each family at `family.folder(tools)`. One process at a time; raises UserError that says which build failed."""
    tools.mkdir(parents=True, exist_ok=True)
    with exclusive(tools / "lock", "build of the tools", report):
        missing = [family for family in families if not family.folder(tools).is_dir()]
        if not missing:
            return
        for left in tools.glob(f"{_STAGING}*"):
            shutil.rmtree(left)
        go = find_go()
        for family in missing:
            check_go(go, family)
        _Builds(go=go, tools=tools, report=report).run(missing)


def find_go() -> Path:
    """The `go` command. Raises UserError where there is none."""
    found = shutil.which("go") or shutil.which("go", path="/usr/local/go/bin")
    if found is None:
        raise UserError(
            "tools have to be built from their Go modules, and there is no `go` on PATH: "
            "install Go 1.25.11 or newer (https://go.dev/doc/install) and put it on PATH"
        )
    return Path(found)


def check_go(go: Path, family: Family) -> None:
    """Raises UserError where Go is too old for the family and may not switch to a newer toolchain by itself."""
    asked = subprocess.run(
        [go, "env", "GOVERSION"], cwd=family.source, env=_environment(), capture_output=True, text=True
    )
    version = parse_version(asked.stdout)
    if asked.returncode != 0 or version is None or version < family.go:
        found = f"{go} is Go {format_version(version)}" if version else f"{go}: {asked.stderr.strip()}"
        raise UserError(
            f"{family.name} {family.version} needs Go {format_version(family.go)} or newer, but {found}: "
            "install a newer Go, or allow this one to fetch it (go env -w GOTOOLCHAIN=auto)"
        )


def build_command(go: Path, family: Family, output: Path) -> list[str]:
    """The `go build` of the family's executable."""
    executable = family.executable
    if executable is None:
        raise ValueError(f"{family.name} has nothing to compile")
    stamps = " ".join(f"-X {name}={value}" for name, value in sorted(executable.stamps.items()))
    flags = f"-s -w {stamps}".strip()
    return [str(go), "build", "-v", "-ldflags", flags, "-o", str(output), executable.package]


def workers(meminfo: str) -> int:
    """How many families to build at once. `meminfo`: /proc/meminfo, in KiB."""
    available = next(int(line.split()[1]) << 10 for line in meminfo.splitlines() if line.startswith("MemAvailable:"))
    return 2 if available >= MEMORY_OF_TWO_BUILDS_BYTES else 1


def _environment() -> dict[str, str]:
    """The user's (proxy, caches) with all that would change what is built set: static, this machine's, reproducible."""
    own = {name: value for name, value in os.environ.items() if name not in {"GOOS", "GOARCH", "GOEXPERIMENT"}}
    return {**own, "CGO_ENABLED": "0", "GOWORK": "off", "GOFLAGS": "-trimpath -buildvcs=false -mod=readonly"}


class _Builds:
    """The builds under way: their processes, to end them all when one fails, and their progress."""

    def __init__(self, *, go: Path, tools: Path, report: Callable[[str], None]) -> None:
        self.go = go
        self.tools = tools
        self.report = report
        self.began: dict[str, float] = {}
        self.steps: dict[str, str] = {}
        self.processes: set[subprocess.Popen[str]] = set()
        self.cancelled = threading.Event()
        self.done = threading.Event()

    def run(self, families: Sequence[Family]) -> None:
        waiting = ", ".join(family.name for family in families)
        self.report(f"building tools from their Go modules, minutes for the first time: {waiting}")
        ticker = threading.Thread(target=self._tick, daemon=True)
        ticker.start()
        try:
            with ThreadPoolExecutor(workers(Path("/proc/meminfo").read_text())) as pool:
                futures = [pool.submit(self._build, family, i) for i, family in enumerate(families)]
                try:
                    for future in as_completed(futures):
                        future.result()
                except BaseException:
                    self._cancel()
                    raise
        finally:
            self.done.set()
            ticker.join()

    def _build(self, family: Family, position: int) -> None:
        if self.cancelled.is_set():
            return
        began = self.began[family.name] = time.monotonic()
        staging = Path(tempfile.mkdtemp(prefix=f"{_STAGING}{family.name}-", dir=self.tools))
        try:
            staging.chmod(0o755)
            if family.executable is not None:
                output = staging / "bin" / family.executable.name
                self._go(family, build_command(self.go, family, output), niceness=0 if position == 0 else 5)
                for link in family.executable.links:
                    (output.parent / link).symlink_to(output.name)
                check_answers(family, output.parent)
            for share in family.shares:
                self._go(family, [str(self.go), "mod", "download", share.module], niceness=0)
                listed = self._go(family, [str(self.go), "list", "-m", "-f", "{{.Dir}}", share.module], niceness=0)
                _copy_writable(Path(listed[-1]) / share.folder, staging / "share" / share.folder)
            staging.rename(family.folder(self.tools))
        except BaseException:
            shutil.rmtree(staging, ignore_errors=True)
            raise
        finally:
            self.steps.pop(family.name, None)
        self.report(f"built {family.name} {family.version} ({time.monotonic() - began:.0f}s)")

    def _go(self, family: Family, command: Sequence[str], *, niceness: int) -> list[str]:
        """Runs a go command in the family's folder and returns its last lines; raises UserError where it fails."""
        last: deque[str] = deque(maxlen=12)
        packages = 0
        process = subprocess.Popen(
            ["nice", "-n", str(niceness), *command],
            cwd=family.source,
            env=_environment(),
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self.processes.add(process)
        assert process.stdout is not None
        for line in process.stdout:
            last.append(line.rstrip())
            if line.startswith("go: downloading"):
                self.steps[family.name] = "downloading"
            elif " " not in line:
                packages += 1
                self.steps[family.name] = f"{packages} packages compiled"
        code = process.wait()
        self.processes.discard(process)
        if code != 0:
            shown = "\n  ".join(last)
            raise UserError(
                f"building {family.name} {family.version} failed (in {family.source}: {' '.join(command)}). "
                f"Its last lines:\n  {shown}\nIf a download failed, try again: what has been fetched and compiled is kept"
            )
        return list(last)

    def _cancel(self) -> None:
        self.cancelled.set()
        for process in list(self.processes):
            process.send_signal(signal.SIGINT)

    def _tick(self) -> None:
        """On a terminal one line that is rewritten each second; else a line every REPORT_INTERVAL_S."""
        terminal = sys.stderr.isatty()
        while not self.done.wait(1.0 if terminal else REPORT_INTERVAL_S):
            now = time.monotonic()
            shown = "; ".join(f"{name}: {step}, {now - self.began[name]:.0f}s" for name, step in self.steps.items())
            if shown and terminal:
                sys.stderr.write(f"\r\x1b[K  {shown}\r")
                sys.stderr.flush()
            elif shown:
                self.report(f"building {shown}")


def check_answers(family: Family, folder: Path) -> None:
    """Runs each command that can say its version; raises UserError unless it is the pinned one."""
    for official in family.official:
        for command in official.commands:
            said = command_version(folder / command, official.arguments)
            if said != parse_version(family.version):
                shown = format_version(said) if said else "nothing that is a version"
                raise UserError(f"{family.name}: the {command} just built says {shown}, not {family.version}")


def command_version(command: Path, arguments: Sequence[str]) -> Version | None:
    """The version that a command prints, or None where it can't be run, fails, or takes over 20 s."""
    try:
        done = subprocess.run(
            [command, *arguments], capture_output=True, text=True, timeout=20, stdin=subprocess.DEVNULL
        )
    except (OSError, subprocess.TimeoutExpired):
        return None
    return parse_version(done.stdout + done.stderr) if done.returncode == 0 else None


def _copy_writable(source: Path, destination: Path) -> None:
    """Copies a folder of the module cache, where everything is read-only, so that the copy can be removed."""
    shutil.copytree(source, destination, copy_function=shutil.copyfile)
    for folder in [destination, *(path for path in destination.rglob("*") if path.is_dir())]:
        folder.chmod(0o755)
