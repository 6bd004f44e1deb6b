"""TorchServe's launcher: ready when the workers are, and gone, Java included, when told to end."""

import http.server
import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from engine_jobs.torchserve_accelerate.configuration import ServerConfig, config_properties
from engine_jobs.torchserve_accelerate.serve import Readiness, read_properties, readiness_server, workers_wanted

ROOT = Path(__file__).resolve().parents[2]


class Management(http.server.ThreadingHTTPServer):
    """TorchServe's management API: describes the model's workers in these states."""

    states: tuple[str, ...] = ()

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            assert isinstance(self.server, Management)
            assert self.path == "/models/bloom"
            body = json.dumps([{"workers": [{"status": state} for state in self.server.states]}]).encode()
            self.send_response(200)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: Any) -> None: ...


@pytest.fixture
def management() -> Iterator[Management]:
    with Management(("127.0.0.1", 0), Management.Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server
        server.shutdown()


def readiness(management: Management) -> Readiness:
    return Readiness(f"http://127.0.0.1:{management.server_port}", {"bloom": 2})


class TestReady:
    @pytest.mark.parametrize(
        ("states", "status"),
        [
            (("READY", "READY"), 200),
            (("READY", "UNLOADING"), 503),
            (("READY",), 503),
            ((), 503),
            (("UNLOADING", "UNLOADING"), 503),
        ],
    )
    def test_only_with_all_workers(self, management: Management, states: tuple[str, ...], status: int) -> None:
        management.states = states
        found, body = readiness(management).answer()
        assert found == status
        assert body == {"ready": status == 200, "workers": {"bloom": list(states)}}

    def test_not_before_torchserve_answers(self) -> None:
        status, body = Readiness("http://127.0.0.1:1", {"bloom": 1}).answer()
        assert status == 503
        assert "refused" in body["error"]

    def test_kubernetes_sees_the_status(self, management: Management) -> None:
        with readiness_server(0, readiness(management)) as server:
            threading.Thread(target=server.serve_forever, daemon=True).start()
            url = f"http://127.0.0.1:{server.server_port}/ready"
            with pytest.raises(urllib.error.HTTPError, match="503"):
                urllib.request.urlopen(url)
            management.states = ("READY", "READY")
            with urllib.request.urlopen(url) as answer:
                assert json.load(answer)["ready"] is True
            server.shutdown()


class TestTheConfiguration:
    def test_says_where_to_ask_and_for_how_many(self, tmp_path: Path) -> None:
        file = tmp_path / "config.properties"
        file.write_text(config_properties(ServerConfig(model_name="bloom", version="1.0", workers=3)))
        properties = read_properties(file)
        assert workers_wanted(properties) == {"bloom": 3}
        assert properties["management_address"] == "http://127.0.0.1:8081"

    def test_without_it_there_is_no_traceback(self, tmp_path: Path) -> None:
        with pytest.raises(SystemExit, match=r"error: .*config\.properties is missing"):
            read_properties(tmp_path / "config.properties")

    def test_one_that_names_no_model_is_refused(self, tmp_path: Path) -> None:
        (tmp_path / "config.properties").write_text("management_address=http://127.0.0.1:8081\n")
        with pytest.raises(SystemExit, match="has no model_snapshot"):
            read_properties(tmp_path / "config.properties")


# Starts a server that outlives it, as TorchServe's launcher does.
LAUNCHER = """\
#!/bin/sh
echo "$@" > {folder}/arguments
trap 'exit 143' TERM
sh -c 'trap "sleep 0.3; touch {folder}/ended; exit 0" TERM; echo $$ > {folder}/java; while :; do sleep 0.05; done' &
wait
"""


def test_the_signal_ends_launcher_and_server(tmp_path: Path) -> None:
    (tmp_path / "torchserve").write_text(LAUNCHER.format(folder=tmp_path))
    (tmp_path / "torchserve").chmod(0o755)
    config = tmp_path / "config.properties"
    config.write_text(config_properties(ServerConfig(model_name="bloom", version="1.0")))
    process = subprocess.Popen(
        [
            sys.executable,
            "-m",
            "engine_jobs.torchserve_accelerate.serve",
            "--ts-config",
            str(config),
            "--ready-port",
            "0",
        ],
        cwd=ROOT,
        env={**os.environ, "PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}", "TEMP": str(tmp_path / "temp")},
    )
    until = time.monotonic() + 30
    while not (tmp_path / "java").exists() and time.monotonic() < until:
        time.sleep(0.05)
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    assert process.wait(timeout=30) == 143
    assert (tmp_path / "ended").exists(), "the launcher was waited for, and the server was not"
    assert "--model-store /mnt/models/model-store" in (tmp_path / "arguments").read_text()
