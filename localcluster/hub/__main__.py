"""`python -m localcluster.hub`: serves a folder of models as a Hugging Face Hub endpoint until it is told to stop."""

import argparse
import errno
import signal
import stat
import sys
import threading
from collections.abc import Sequence
from pathlib import Path

from engine_jobs.errors import UserError, run
from localcluster.hub.catalog import Catalog
from localcluster.hub.server import HubServer


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(prog="python -m localcluster.hub", description=__doc__)
    parser.add_argument("--models-dir", type=Path, required=True, help="folder with one folder a model")
    parser.add_argument("--host", action="append", required=True, help="address to listen on; may be given again")
    parser.add_argument("--port", type=int, default=8090)
    parser.add_argument(
        "--token-file", type=Path, required=True, help="the token that opens the gated models, mode 0600"
    )
    arguments = parser.parse_args(argv)
    token = read_token(arguments.token_file)
    if not arguments.models_dir.is_dir():
        raise UserError(f"--models-dir {arguments.models_dir}: there is no such folder.")
    catalog = Catalog(arguments.models_dir)
    servers = [listen(host, arguments.port, catalog, token) for host in arguments.host]

    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: stop.set())
    for server in servers:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        host, port = server.server_address[:2]
        print(
            f"serving {', '.join(catalog.ids()) or 'no models'} on http://{host!s}:{port}", file=sys.stderr, flush=True
        )
    stop.wait()
    for server in servers:
        server.shutdown()
        server.server_close()


def read_token(path: Path) -> str:
    try:
        mode = stat.S_IMODE(path.stat().st_mode)
        token = path.read_text().strip()
    except OSError as error:
        raise UserError(f"--token-file {path}: {error.strerror}.") from error
    if mode & 0o077:
        raise UserError(f"--token-file {path} can be read by others (mode {mode:04o}): chmod 600 it.")
    if not token:
        raise UserError(f"--token-file {path} is empty: write a token of the form hf_… into it.")
    return token


def listen(host: str, port: int, catalog: Catalog, token: str) -> HubServer:
    try:
        return HubServer((host, port), catalog, token)
    except OSError as error:
        reason = {
            errno.EADDRINUSE: "another process listens there: stop it, or choose another --port",
            errno.EADDRNOTAVAIL: "this machine has no such address: bring its interface up, or choose another --host",
        }.get(error.errno or 0, error.strerror or str(error))
        raise UserError(f"can't listen on {host}:{port}: {reason}.") from error


if __name__ == "__main__":
    run(main)
