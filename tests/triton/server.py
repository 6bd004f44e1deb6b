"""A real tritonserver with the Python backend on loopback, from the wheel nvidia-pytriton: what the image triton-cpu is made of.

The wheel is the one that the image's lock names; it is unpacked once into the local stack's cache.
"""

import os
import shutil
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from localcluster.paths import REPOSITORY, default_paths
from localcluster.wheelhouse import ensure_wheels, read_lock

LOCK = REPOSITORY / "engine_jobs" / "images" / "triton-cpu" / "requirements.lock"
READY_SECONDS = 60.0


@dataclass(frozen=True, kw_only=True)
class Server:
    """`http` and `grpc`: host:port. `log`: what the server and its models write."""

    http: str
    grpc: str
    log: Path
    process: subprocess.Popen[bytes]

    def ready(self) -> bool:
        try:
            with urllib.request.urlopen(f"http://{self.http}/v2/health/ready", timeout=5) as response:
                return bool(response.status == 200)
        except (urllib.error.URLError, OSError):
            return False


def triton_home() -> Path:
    """The unpacked wheel, with the Python backend's stub beside its library."""
    paths = default_paths()
    (triton,) = (each for each in read_lock(LOCK) if each.name == "nvidia-pytriton")
    home = paths.cache / f"test-triton-{triton.version}"
    if home.is_dir():
        return home
    ensure_wheels(paths.wheels, [LOCK], print)
    (wheel,) = paths.wheels.glob(f"{triton.wheel_prefix}*.whl")
    partial = paths.cache / f".test-triton.{os.getpid()}"
    shutil.rmtree(partial, ignore_errors=True)
    with zipfile.ZipFile(wheel) as archive:
        archive.extractall(partial)
    unpacked = partial / "pytriton" / "tritonserver"
    stub = unpacked / "backends" / "python" / "triton_python_backend_stub"
    shutil.copyfile(unpacked / "python_backend_stubs" / "3.11" / stub.name, stub)
    for program in (stub, unpacked / "bin" / "tritonserver"):
        program.chmod(0o755)
    partial.rename(home)
    return home


def _free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@contextmanager
def triton_server(repository: Path, log: Path, *options: str) -> Iterator[Server]:
    """Serves a model repository until the block ends. The models' python is this one, with its packages."""
    home = triton_home()
    http, grpc = _free_port(), _free_port()
    environment = os.environ | {
        "LD_LIBRARY_PATH": str(home / "nvidia_pytriton.libs"),
        "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    }
    environment.pop("PYTHONPATH", None)
    command = (
        str(home / "pytriton" / "tritonserver" / "bin" / "tritonserver"),
        *(f"--model-repository={repository}", f"--backend-directory={home}/pytriton/tritonserver/backends"),
        *("--http-address=127.0.0.1", f"--http-port={http}", "--grpc-address=127.0.0.1", f"--grpc-port={grpc}"),
        *("--allow-metrics=false", "--disable-auto-complete-config"),
        f"--backend-config=python,shm-region-prefix-name=test{http}_",
        *options,
    )
    with log.open("wb") as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.STDOUT, env=environment)
    server = Server(http=f"127.0.0.1:{http}", grpc=f"127.0.0.1:{grpc}", log=log, process=process)
    try:
        _wait(server)
        yield server
    finally:
        process.terminate()
        try:
            process.wait(30)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _wait(server: Server) -> None:
    end = time.monotonic() + READY_SECONDS
    while not server.ready():
        if server.process.poll() is not None or time.monotonic() > end:
            raise AssertionError(f"tritonserver does not serve:\n{server.log.read_text(errors='replace')[-6000:]}")
        time.sleep(0.2)
