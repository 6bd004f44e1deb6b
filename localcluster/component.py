"""A component of the local cluster: a process of the host with its configuration files, its addresses and its health."""

import socket
import ssl
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from localcluster.preflight import Listen
from localcluster.process import Command

# Where the executable of a tool lies, by the tool's name.
ToolPath = Callable[[str], Path]


@dataclass(frozen=True, kw_only=True)
class Component:
    """`files` are written before the process starts, and a change in them, or in a file of `reads`, restarts it."""

    name: str
    argv: tuple[str, ...]
    is_healthy: Callable[[], bool]
    environment: Mapping[str, str] = field(default_factory=dict)
    files: Mapping[Path, str] = field(default_factory=dict)
    reads: tuple[Path, ...] = ()
    addresses: tuple[tuple[str, int], ...] = ()

    @property
    def listens(self) -> tuple[Listen, ...]:
        return tuple(Listen(component=self.name, address=host, port=port) for host, port in self.addresses)

    @property
    def command(self) -> Command:
        return Command(
            name=self.name,
            argv=self.argv,
            environment=self.environment,
            config_files=(*self.files, *self.reads),
        )

    def write_files(self) -> None:
        """Writes its configuration files where they differ; they are readable by root only."""
        for path, text in self.files.items():
            if not path.exists() or path.read_text() != text:
                path.parent.mkdir(parents=True, exist_ok=True)
                path.touch(mode=0o600)
                path.write_text(text)


def answers(url: str, *, authority: Path | None = None, timeout_s: float = 2.0) -> bool:
    """Whether a GET of the URL is answered with 200. Without an authority a loopback server's own certificate will do."""
    context = ssl.create_default_context(cafile=authority)
    if authority is None:
        context.check_hostname = False
        context.verify_mode = ssl.CERT_NONE
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context))
    try:
        with opener.open(url, timeout=timeout_s) as response:
            return bool(response.status == 200)
    except (OSError, urllib.error.HTTPError, ValueError):
        return False


def accepts(host: str, port: int, *, timeout_s: float = 2.0) -> bool:
    """Whether a TCP connection to the address is accepted."""
    try:
        with socket.create_connection((host, port), timeout=timeout_s):
            return True
    except OSError:
        return False


def accepts_unix(path: Path, *, timeout_s: float = 2.0) -> bool:
    """Whether a connection to the socket is accepted."""
    try:
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as client:
            client.settimeout(timeout_s)
            client.connect(str(path))
            return True
    except OSError:
        return False
