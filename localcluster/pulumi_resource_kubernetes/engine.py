"""The engine's side of a provider: what the user is told while resources are made."""

import threading
from typing import Any

import grpc
from pulumi.runtime.proto import engine_pb2, engine_pb2_grpc


class Engine:
    """Sends messages to the engine at host:port; to nobody where the address is ""."""

    def __init__(self, address: str) -> None:
        self._lock = threading.Lock()
        self._stub: Any = None
        self.connect(address)

    def connect(self, address: str) -> None:
        """From now on messages go there."""
        if address:
            channel = grpc.insecure_channel(address)
            with self._lock:
                self._stub = engine_pb2_grpc.EngineStub(channel)

    def status(self, urn: str, message: str) -> None:
        """Shows what a resource is waiting for, in its line of the display; "" clears it."""
        self._log(engine_pb2.INFO, urn, message, ephemeral=True)

    def info(self, urn: str, message: str) -> None:
        self._log(engine_pb2.INFO, urn, message)

    def warning(self, urn: str, message: str) -> None:
        self._log(engine_pb2.WARNING, urn, message)

    def _log(self, severity: Any, urn: str, message: str, *, ephemeral: bool = False) -> None:
        if self._stub is None:
            return
        request = engine_pb2.LogRequest(severity=severity, urn=urn, message=message, ephemeral=ephemeral)
        try:
            self._stub.Log(request, timeout=10)
        except grpc.RpcError:
            # The engine is going; what was being done decides the outcome, not what was being said.
            return
