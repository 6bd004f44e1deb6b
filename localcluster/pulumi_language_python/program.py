"""Runs one Pulumi program in its own Python. Started by path, so it imports nothing but the standard library and the SDK.

The command line and the environment (PULUMI_CONFIG, PULUMI_CONFIG_SECRET_KEYS) are those of the official
`pulumi-language-python-exec` of pulumi 3.255.0. Exit codes: 0 done, 32 failed and the user has been told why, 1 otherwise.
"""

import argparse
import asyncio
import ctypes
import logging
import os
import runpy
import signal
import sys
import traceback
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

USER_WAS_TOLD = 32
PARENT_VARIABLE = "PULUMI_LANGUAGE_HOST_PID"
_PR_SET_PDEATHSIG = 1
_MONITOR_IS_GONE = "resource monitor shut down"


def _end_with_parent() -> None:
    """A program whose engine was killed must not go on by itself."""
    ctypes.CDLL(None, use_errno=True).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)
    parent = os.environ.pop(PARENT_VARIABLE, "")
    if parent and os.getppid() != int(parent):
        sys.exit(1)


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Runs a Pulumi program.")
    for name in ("project", "root_directory", "stack", "pwd", "monitor", "engine", "tracing", "organization"):
        parser.add_argument(f"--{name}")
    parser.add_argument("--parallel", type=int, default=1)
    parser.add_argument("--dry_run", choices=("true", "false"), default="false")
    parser.add_argument("program")
    parser.add_argument("arguments", nargs=argparse.REMAINDER)
    return parser.parse_args()


def _user_traceback(error: BaseException, program: Path) -> str:
    """The traceback from the program's own first frame on."""
    start = program.resolve()
    frames = traceback.extract_tb(error.__traceback__)
    for index, frame in enumerate(frames):
        if Path(frame.filename).resolve() in (start, start / "__main__.py"):
            return "".join(traceback.format_exception(error, limit=index - len(frames)))
    return "".join(traceback.format_exception(error))


def main() -> int:
    """Configures the SDK from the command line, runs the program, and returns the exit code."""
    _end_with_parent()
    options = _arguments()
    # The folder of this file is no part of the program's import path.
    if sys.path and Path(sys.path[0]).resolve() == Path(__file__).resolve().parent:
        sys.path.pop(0)
    try:
        import pulumi
        import pulumi.runtime
    except ImportError as error:
        print(
            f"error: the Pulumi SDK can't be imported in {sys.executable} ({error}): "
            "install the program's dependencies (`pulumi install`)",
            file=sys.stderr,
            flush=True,
        )
        return USER_WAS_TOLD

    pulumi.runtime.set_all_config(
        pulumi.runtime.get_config_env(),
        pulumi.runtime.get_config_secret_keys_env(),
    )
    settings = pulumi.runtime.Settings(
        monitor=options.monitor,
        engine=options.engine,
        project=options.project,
        stack=options.stack,
        parallel=options.parallel,
        dry_run=options.dry_run == "true",
        organization=options.organization,
        root_directory=options.root_directory,
    )
    pulumi.runtime.configure(settings)
    if options.pwd is not None:
        os.chdir(options.pwd)
    sys.argv = [options.program, *options.arguments]
    # A failed deployment leaves futures that nobody waits for; asyncio's complaints about them would hide the cause.
    logging.getLogger("asyncio").setLevel(logging.CRITICAL)
    loop = asyncio.new_event_loop()
    asyncio.set_event_loop(loop)
    executor = ThreadPoolExecutor(max_workers=max(options.parallel, 1) * 4)
    loop.set_default_executor(executor)
    program = Path(options.program).absolute()
    if program.is_dir() and not (program / "__main__.py").exists():
        pulumi.log.error(f"there is no __main__.py in {program}: the program's folder must hold one")
        return USER_WAS_TOLD

    def run_program() -> None:
        runpy.run_path(options.program, run_name="__main__")

    try:
        loop.run_until_complete(pulumi.runtime.run_in_stack(run_program))
    except pulumi.RunError as error:
        pulumi.log.error(str(error))
        return USER_WAS_TOLD
    except Exception as error:
        if _MONITOR_IS_GONE in str(error):
            # The engine has given up and said why; the calls that this ended are no news.
            return USER_WAS_TOLD
        pulumi.log.error(f"Program failed with an unhandled exception:\n{_user_traceback(error, program)}")
        return USER_WAS_TOLD
    executor.shutdown(wait=True)
    loop.close()
    return 0


if __name__ == "__main__":
    try:
        exit_code = main()
    except KeyboardInterrupt:
        exit_code = 130
    sys.stdout.flush()
    sys.stderr.flush()
    if exit_code:
        # Threads that wait for an engine which has given up would hold the process.
        os._exit(exit_code)
