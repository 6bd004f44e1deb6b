"""`python -m engine_jobs.torchserve_accelerate.serve`: TorchServe, and whether it is ready.

TorchServe's own endpoints (/ping, the management API) answer 200 while a worker is still loading its model, or fails to. So a small
HTTP server on a port of its own answers 200 only while every model has all its workers READY, else 503 with their states: that
is what Kubernetes asks. The requests themselves go to TorchServe directly.

TorchServe's Python launcher leaves its Java server running when it is ended, so both get the signal, as one process group.

Runs in TorchServe's GPU image too, whose Python is 3.9, so it imports nothing of this project (which is written for 3.11).
"""

from __future__ import annotations

import argparse
import contextlib
import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.request
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

LOG_CONFIG = Path(__file__).with_name("log4j2.xml")
ASK_TIMEOUT_S = 3.0
END_TIMEOUT_S = 25.0  # Kubernetes gives 30


def read_properties(path: Path) -> dict[str, str]:
    """Raises SystemExit where the file is not there, names no model, or has no management address."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError:
        raise SystemExit(
            f"error: {path} is missing: it is part of what `archive` made. Is the storage URI the artifact's?"
        ) from None
    properties = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))
    for key in ("management_address", "model_snapshot"):
        if key not in properties:
            raise SystemExit(f"error: {path} has no {key}")
    return properties


def workers_wanted(properties: Mapping[str, str]) -> dict[str, int]:
    """How many workers each model must have."""
    models = json.loads(properties["model_snapshot"])["models"]
    return {name: max(version["minWorkers"] for version in versions.values()) for name, versions in models.items()}


class Readiness:
    """Asks TorchServe's management API what each model's workers do."""

    def __init__(self, management: str, wanted: Mapping[str, int]) -> None:
        self.management, self.wanted = management, wanted

    def states(self) -> dict[str, list[str]]:
        """The states of each model's workers. Raises OSError where TorchServe does not answer (yet), ValueError for nonsense."""
        states = {}
        for name in self.wanted:
            with urllib.request.urlopen(f"{self.management}/models/{name}", timeout=ASK_TIMEOUT_S) as answer:
                (description,) = json.load(answer)
            states[name] = [worker["status"] for worker in description["workers"]]
        return states

    def answer(self) -> tuple[int, dict[str, Any]]:
        """The status and body for whoever asks."""
        try:
            states = self.states()
        except (OSError, ValueError, KeyError, TypeError) as error:
            return 503, {"ready": False, "error": str(error)}
        ready = all(states[name].count("READY") >= count for name, count in self.wanted.items())
        return 200 if ready else 503, {"ready": ready, "workers": states}


def readiness_server(port: int, readiness: Readiness) -> http.server.ThreadingHTTPServer:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, content = readiness.answer()
            body = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None:
            """Kubernetes asks every few seconds: no log of that."""

    return http.server.ThreadingHTTPServer(("0.0.0.0", port), Handler)


def torchserve_command(config: Path, properties: Mapping[str, str]) -> list[str]:
    """TorchServe's command line (0.12.0); `-ncs`: no snapshots are written, the one in the configuration is all there is."""
    command = ["torchserve", "--foreground", "--ts-config", str(config), "--ncs", "--disable-token-auth"]
    command += ["--model-store", properties["model_store"]] if "model_store" in properties else []
    return [*command, "--log-config", str(LOG_CONFIG)]


def serve(command: Sequence[str], port: int, readiness: Readiness) -> int:
    """Runs TorchServe to its end, or until this process is told to end. Its exit code."""
    temporary = Path(os.environ.get("TEMP", "/tmp/torchserve"))  # models are unpacked here
    temporary.mkdir(parents=True, exist_ok=True)
    server = readiness_server(port, readiness)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        environment = {**os.environ, "TEMP": str(temporary)}
        child = subprocess.Popen(command, env=environment, cwd=temporary, start_new_session=True)
    except FileNotFoundError as error:
        raise SystemExit(f"error: {command[0]} is not on PATH: run this in an image with TorchServe") from error

    def end(number: int, _frame: object) -> None:
        os.killpg(child.pid, number)

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    try:
        status = child.wait()
        _wait_for_group(child.pid)
        return status
    finally:
        server.shutdown()


def _wait_for_group(group: int) -> None:
    """Until the Java server and its workers are gone too."""
    until = time.monotonic() + END_TIMEOUT_S
    with contextlib.suppress(ProcessLookupError):
        while time.monotonic() < until:
            os.killpg(group, 0)
            time.sleep(0.1)
        os.killpg(group, signal.SIGKILL)


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m engine_jobs.torchserve_accelerate.serve", description=__doc__)
    parser.add_argument("--ts-config", type=Path, required=True, metavar="FILE", help="config.properties")
    parser.add_argument("--ready-port", type=int, required=True, metavar="PORT", help="where readiness is answered")
    arguments = parser.parse_args(argv)
    properties = read_properties(arguments.ts_config)
    readiness = Readiness(properties["management_address"], workers_wanted(properties))
    command = torchserve_command(arguments.ts_config.absolute(), properties)
    status = serve(command, arguments.ready_port, readiness)
    sys.exit(status if status >= 0 else 128 - status)  # ended by a signal: as a shell has it


if __name__ == "__main__":
    main(sys.argv[1:])
