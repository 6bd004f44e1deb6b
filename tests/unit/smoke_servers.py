"""Real servers on loopback that play what a smoke test asks: an HTTP endpoint with a script, a v2 gRPC server, an API server."""

import contextlib
import json
import socket
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from concurrent import futures
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import grpc
import numpy as np
import yaml
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc


@dataclass(frozen=True)
class Reply:
    """`drip` sends the body byte by byte, that many seconds apart; `cut` closes the connection in place of an answer."""

    status: int = 200
    body: object = None
    content_type: str = "application/json"
    delay: float = 0.0
    drip: float = 0.0
    cut: bool = False

    def payload(self) -> bytes:
        return self.body.encode() if isinstance(self.body, str) else json.dumps(self.body).encode()


@dataclass(frozen=True)
class Request:
    method: str
    path: str
    host: str
    body: Any


@dataclass
class HttpEndpoint:
    """Answers each path with its replies in turn, the last one for ever; every other path with 404, as a gateway does."""

    replies: dict[str, list[Reply]]
    url: str = ""
    requests: list[Request] = field(default_factory=list)

    def reply_to(self, request: Request) -> Reply:
        self.requests.append(request)
        replies = self.replies.get(request.path.partition("?")[0])
        if replies is None:
            return Reply(404, "404 page not found", "text/plain")
        return replies.pop(0) if len(replies) > 1 else replies[0]


@contextlib.contextmanager
def http_endpoint(replies: Mapping[str, Reply | list[Reply]]) -> Iterator[HttpEndpoint]:
    endpoint = HttpEndpoint({path: each if isinstance(each, list) else [each] for path, each in replies.items()})

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def _serve(self) -> None:
            length = int(self.headers.get("Content-Length") or 0)
            raw = self.rfile.read(length)
            body = json.loads(raw) if raw else None
            reply = endpoint.reply_to(Request(self.command, self.path, self.headers.get("Host", ""), body))
            if reply.cut:
                self.close_connection = True
                return
            time.sleep(reply.delay)
            payload = reply.payload()
            with contextlib.suppress(OSError):
                self.send_response(reply.status)
                self.send_header("Content-Type", reply.content_type)
                self.send_header("Content-Length", str(len(payload)))
                self.send_header("Connection", "close")
                self.end_headers()
                pieces = [bytes([byte]) for byte in payload] if reply.drip else [payload]
                for piece in pieces:
                    self.wfile.write(piece)
                    time.sleep(reply.drip)

        do_GET = do_POST = do_PUT = _serve

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    server.block_on_close = False
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    endpoint.url = f"http://127.0.0.1:{server.server_port}"
    try:
        yield endpoint
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


def unused_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


class V2Server(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient ships no types
    """A server of the v2 protocol with one model `doubler`, whose OUT is twice its IN (BYTES: the text twice).

    It has no route for its first `unrouted` calls, then no backend for `refusals`, as a gateway has at first.
    """

    def __init__(self) -> None:
        self.calls = self.unrouted = self.refusals = 0
        self.live = self.ready = True
        self.delay = 0.0
        self.outputs: Callable[[np.ndarray[Any, Any]], np.ndarray[Any, Any]] = lambda array: array * 2

    def _admit(self, context: grpc.ServicerContext) -> None:
        self.calls += 1
        if self.unrouted > 0:
            self.unrouted -= 1
            context.abort(grpc.StatusCode.UNIMPLEMENTED, "Received http2 header with status: 404")
        if self.refusals > 0:
            self.refusals -= 1
            context.abort(grpc.StatusCode.UNAVAILABLE, "no ready backend")
        time.sleep(self.delay)

    def ServerLive(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context)
        return pb.ServerLiveResponse(live=self.live)

    def ServerReady(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context)
        return pb.ServerReadyResponse(ready=self.ready)

    def ModelMetadata(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context)
        if request.name != "doubler":
            context.abort(grpc.StatusCode.NOT_FOUND, f"Request for unknown model: '{request.name}' is not found")
        return pb.ModelMetadataResponse(name=request.name, versions=["1"], platform="python")

    def ModelInfer(self, request: Any, context: grpc.ServicerContext) -> Any:
        self._admit(context)
        given = request.inputs[0]
        raw = request.raw_input_contents[0]
        if given.datatype == "BYTES":
            text = raw[4:]
            doubled = self.outputs(np.array([text], dtype=object))
            payload = b"".join(len(each).to_bytes(4, "little") + each for each in doubled)
            shape = list(doubled.shape)
        else:
            dtype = {"UINT32": np.uint32, "FP32": np.float32}[given.datatype]
            array = self.outputs(np.frombuffer(raw, dtype=dtype).reshape(given.shape))
            payload, shape = array.tobytes(), list(array.shape)
        response = pb.ModelInferResponse(model_name=request.model_name)
        response.outputs.add(name="OUT", datatype=given.datatype, shape=shape)
        response.raw_output_contents.append(payload)
        return response


@contextlib.contextmanager
def v2_server() -> Iterator[tuple[V2Server, int]]:
    servicer = V2Server()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=4))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, port
    finally:
        server.stop(0).wait()


@contextlib.contextmanager
def recording_relay(port: int) -> Iterator[tuple[int, bytearray]]:
    """A relay to a port of 127.0.0.1: its own port, and what clients have sent so far, byte for byte."""
    sent = bytearray()

    def pump(source: socket.socket, sink: socket.socket, record: bool) -> None:
        with contextlib.suppress(OSError):
            while data := source.recv(65536):
                if record:
                    sent.extend(data)
                sink.sendall(data)
        with contextlib.suppress(OSError):
            sink.shutdown(socket.SHUT_WR)

    def accept(listener: socket.socket) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = listener.accept()
                server = socket.create_connection(("127.0.0.1", port))
                for arguments in ((client, server, True), (server, client, False)):
                    threading.Thread(target=pump, args=arguments, daemon=True).start()

    with socket.create_server(("127.0.0.1", 0)) as listener:
        threading.Thread(target=accept, args=(listener,), daemon=True).start()
        yield listener.getsockname()[1], sent
        with contextlib.suppress(OSError):
            listener.shutdown(socket.SHUT_RDWR)


def write_kubeconfig(path: Path, server: str) -> str:
    """A kubeconfig whose one context `test` is the API server at this URL."""
    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [{"name": "test", "cluster": {"server": server}}],
        "users": [{"name": "test", "user": {"token": "not-a-secret"}}],
        "contexts": [{"name": "test", "context": {"cluster": "test", "user": "test"}}],
        "current-context": "test",
    }
    path.write_text(yaml.safe_dump(document))
    return str(path)
