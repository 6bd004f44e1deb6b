"""What every Pulumi plugin process does: serve gRPC on a free loopback port, say which, and end with the engine."""

import os
import signal
import sys
import threading
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor

import grpc

# Each awaited resource holds one thread; they are made only when needed.
_MAX_CALLS = 256
# The engine sends whole states; the official plugins lift gRPC's 4 MiB limit to 400 MiB.
_MAX_MESSAGE_BYTES = 400 * 1024 * 1024
CHANNEL_OPTIONS = (
    ("grpc.max_receive_message_length", _MAX_MESSAGE_BYTES),
    ("grpc.max_send_message_length", _MAX_MESSAGE_BYTES),
)
_GRACE_S = 2.0
_PARENT_CHECK_S = 1.0


def engine_address(argv: Sequence[str]) -> str:
    """The engine's host:port, the one positional argument; "" where a person starts the plugin by hand."""
    return next((argument for argument in argv if not argument.startswith("-")), "")


def serve(register: Callable[[grpc.Server], None], stopping: Callable[[], None]) -> None:
    """Serves until SIGTERM, SIGINT or the engine's end; `stopping` is called first so that calls in flight can end."""
    server = grpc.server(ThreadPoolExecutor(max_workers=_MAX_CALLS), options=CHANNEL_OPTIONS)
    register(server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    print(port, flush=True)
    stop = threading.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda _number, _frame: stop.set())
    parent = os.getppid()
    while not stop.wait(_PARENT_CHECK_S):
        if os.getppid() != parent:
            break
    stopping()
    server.stop(_GRACE_S).wait()
    sys.stdout.flush()
    sys.stderr.flush()
    # Threads that still wait for a cluster or a child must not hold the process.
    os._exit(0)
