"""How the front's processes ask the engine's: a line of JSON over a local socket, and a line back.

Triton's own way from one model to another (BLS) neither hands on a cancellation nor, in the Python 3.12 stub of 24.10, survives
many decoupled calls. Here closing the connection is the cancellation. The sockets are abstract ones (unix(7)): they need no file,
end with their process, and are named after the server that both processes are children of.
"""

import json
import os
import select
import socket
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from engine_jobs.errors import UserError

SOCKETS: Final = Path("/proc/net/unix")
BACKLOG: Final = 1024
READ_SECONDS: Final = 10.0
SEND_SECONDS: Final = 10.0
"""A front sends at once and whole, and reads at once: whoever takes longer is none."""


def prefix(engine: str, server: int | None = None) -> str:
    """What the sockets of an engine's instances are called, before the instance's own process id."""
    return f"llm-serving-{os.getppid() if server is None else server}-{engine}-"


class Asker:
    """Who asked, on the engine's side."""

    def __init__(self, connection: socket.socket) -> None:
        self._connection = connection

    def answer(self, content: Mapping[str, Any]) -> None:
        """The one answer. A front that has gone needs none."""
        try:
            self._connection.settimeout(SEND_SECONDS)
            self._connection.sendall(json.dumps(content).encode() + b"\n")
        except OSError:
            pass
        finally:
            self._connection.close()

    def is_gone(self) -> bool:
        try:
            return self._connection.recv(1, socket.MSG_PEEK | socket.MSG_DONTWAIT) == b""
        except BlockingIOError:
            return False
        except OSError:
            return True


class Door:
    """The engine's side: hands every question to `asked`, on a thread of its own. `asked` must not raise."""

    def __init__(self, engine: str, asked: Callable[[Mapping[str, Any], Asker], None]) -> None:
        self._asked = asked
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.bind(f"\0{prefix(engine)}{os.getpid()}")
        self._socket.listen(BACKLOG)
        self._thread = threading.Thread(target=self._take, name="door", daemon=True)
        self._thread.start()

    def close(self) -> None:
        """Takes no more questions; those that were taken still get their answers."""
        # Only this wakes a thread that waits in accept.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()

    def _take(self) -> None:
        while True:
            try:
                connection, _ = self._socket.accept()
            except OSError:
                return
            try:
                connection.settimeout(READ_SECONDS)
                question = json.loads(_line(connection))
                # With a time limit, even a recv that must not wait would.
                connection.settimeout(None)
            except (OSError, ValueError):
                connection.close()
                continue
            self._asked(question, Asker(connection))


class Questions:
    """The front's side: several questions to one engine, under way at once. Close it to take back what has no answer yet."""

    def __init__(self, engine: str, *, server: int | None = None) -> None:
        self._prefix = prefix(engine, server)
        self._engine = engine
        self._waiting: dict[socket.socket, tuple[Any, bytearray]] = {}

    def ask(self, key: Any, question: Mapping[str, Any]) -> None:
        """Raises UserError where no engine of this name is there."""
        connection = self._connect()
        connection.sendall(json.dumps(question).encode() + b"\n")
        self._waiting[connection] = (key, bytearray())

    def keys(self) -> set[Any]:
        """Of the questions without an answer."""
        return {key for key, _ in self._waiting.values()}

    def take(self, seconds: float) -> list[tuple[Any, Mapping[str, Any]]]:
        """The answers that come within that time, at least one unless it passes. An engine that ends gives an `error`."""
        found = []
        poll = select.poll()
        by_number = {connection.fileno(): connection for connection in self._waiting}
        for number in by_number:
            poll.register(number, select.POLLIN)
        for number, _ in poll.poll(seconds * 1000):
            connection = by_number[number]
            key, read = self._waiting[connection]
            try:
                piece = connection.recv(65536)
            except OSError:
                piece = b""
            read += piece
            if piece and not read.endswith(b"\n"):
                continue
            del self._waiting[connection]
            connection.close()
            found.append((key, json.loads(read) if piece else {"error": f"{self._engine} ended before it answered"}))
        return found

    def drop(self, key: Any) -> None:
        """Takes the questions of this key back: the engine sees that nobody waits."""
        for connection in [each for each, (other, _) in self._waiting.items() if other == key]:
            del self._waiting[connection]
            connection.close()

    def _connect(self) -> socket.socket:
        instances = _instances(self._prefix)
        # Any of them, evenly: there is one on each GPU.
        start = time.monotonic_ns() // 1000 % max(len(instances), 1)
        for name in (*instances[start:], *instances[:start]):
            connection = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
            try:
                connection.connect(f"\0{name}")
            except OSError:
                connection.close()
                continue
            return connection
        raise UserError(f"the model {self._engine}, which holds the weights, is not loaded; load it first")


def _instances(start: str) -> Sequence[str]:
    """The listening sockets whose names begin so."""
    names = (line.rpartition(b" @")[2].decode(errors="replace") for line in SOCKETS.read_bytes().splitlines())
    return sorted({name for name in names if name.startswith(start)})


def _line(connection: socket.socket) -> bytes:
    read = bytearray()
    while not read.endswith(b"\n"):
        piece = connection.recv(65536)
        if not piece:
            raise ConnectionError("the connection ended within a line")
        read += piece
    return bytes(read)
