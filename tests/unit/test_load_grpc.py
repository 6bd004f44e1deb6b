"""The load test over gRPC, against real servers: one inference after the other, and the streams of a decoupled model."""

import contextlib
import time
from collections.abc import Iterator
from concurrent import futures
from pathlib import Path
from typing import Any

import grpc
import pytest
from tritonclient.grpc import service_pb2 as pb
from tritonclient.grpc import service_pb2_grpc as pb_grpc

from engine_jobs.errors import UserError
from engine_jobs.load.__main__ import main
from engine_jobs.load.results import SweepResult
from engine_jobs.load.spec import Workload, to_json
from engine_jobs.load.write import read_result
from engine_jobs.smoke_test import ExpectedOutput, GrpcProbe, Tensor, UrlTarget
from tests.unit.smoke_servers import V2Server, v2_server

QUICK = (
    "--window",
    "0.3",
    "--warm-up",
    "0.05",
    "--min-requests",
    "5",
    "--max-windows",
    "3",
    "--stability-percentage",
    "1000",
)
TEXT = Tensor(name="text_input", datatype="BYTES", shape=(1,), data=("What is ML?",))
FIRST, BETWEEN = 0.06, 0.04


def sweep(port: int, probe: GrpcProbe, out: Path, *more: str) -> SweepResult:
    workload = Workload(name="tiny", target=UrlTarget(url=f"http://127.0.0.1:{port}"), probe=probe, prompt="text_input")
    main(["sweep", "--workload-json", to_json(workload), *QUICK, "--out", str(out), *more])
    result = read_result(out)
    assert isinstance(result, SweepResult)
    return result


class Decoupled(pb_grpc.GRPCInferenceServiceServicer):  # type: ignore[misc]  # tritonclient ships no types
    """A decoupled model: `pieces`, so many seconds apart, then an empty final response. `fails`: after the first piece."""

    def __init__(self) -> None:
        self.pieces = (b"It ", b"is", b".")
        self.fails: str | None = None
        self.asked: list[bytes] = []

    def ModelConfig(self, request: Any, context: grpc.ServicerContext) -> Any:
        response = pb.ModelConfigResponse()
        response.config.name = request.name
        response.config.model_transaction_policy.decoupled = True
        return response

    def ModelStreamInfer(self, requests: Iterator[Any], context: grpc.ServicerContext) -> Iterator[Any]:
        for request in requests:
            self.asked.append(bytes(request.raw_input_contents[0][4:]))
            for number, piece in enumerate(self.pieces):
                time.sleep(BETWEEN if number else FIRST)
                if number and self.fails:
                    yield pb.ModelStreamInferResponse(error_message=self.fails)
                    return
                response = pb.ModelStreamInferResponse()
                response.infer_response.model_name = request.model_name
                response.infer_response.outputs.add(name="text_output", datatype="BYTES", shape=[1])
                response.infer_response.raw_output_contents.append(len(piece).to_bytes(4, "little") + piece)
                yield response
            final = pb.ModelStreamInferResponse()
            final.infer_response.parameters["triton_final_response"].bool_param = True
            yield final


@contextlib.contextmanager
def decoupled() -> Iterator[tuple[Decoupled, int]]:
    servicer = Decoupled()
    server = grpc.server(futures.ThreadPoolExecutor(max_workers=8))
    pb_grpc.add_GRPCInferenceServiceServicer_to_server(servicer, server)
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    try:
        yield servicer, port
    finally:
        server.stop(0).wait()


STREAM = GrpcProbe(name="stream", model="tensorrt_llm_bls", inputs=(TEXT,))


class TestADecoupledModel:
    def test_is_asked_by_streams_which_are_timed_piece_by_piece(self, tmp_path: Path) -> None:
        with decoupled() as (_, port):
            (level,) = sweep(port, STREAM, tmp_path / "out", "--concurrency", "2").levels
        assert level.errors == 0
        assert level.first_token is not None
        assert level.between_tokens is not None
        assert level.first_token.min >= 1000 * FIRST
        assert level.between_tokens.p50 >= 0.7 * 1000 * BETWEEN
        assert level.between_tokens.count == 2 * level.requests  # the final response has no text and is no token
        assert level.tokens_per_second == pytest.approx(3 * level.throughput, rel=0.01)

    def test_gets_each_prompt_in_turn(self, tmp_path: Path) -> None:
        prompts = tmp_path / "prompts"
        prompts.write_text("one\ntwo\n")
        with decoupled() as (server, port):
            sweep(port, STREAM, tmp_path / "out", "--concurrency", "1", "--prompts", str(prompts))
        assert set(server.asked) == {b"one", b"two"}

    def test_whose_stream_fails_in_the_middle_is_not_measured(self, tmp_path: Path) -> None:
        with decoupled() as (server, port):
            server.fails = "the KV cache is full"
            with pytest.raises(UserError, match=r"tiny: not measured.*the KV cache is full"):
                sweep(port, STREAM, tmp_path / "out", "--concurrency", "1")


class TestAPlainModel:
    probe = GrpcProbe(
        name="gRPC",
        model="doubler",
        inputs=(Tensor(name="IN", datatype="UINT32", shape=(1, 2), data=(5, 6)),),
        expect_output=ExpectedOutput(name="OUT", prefix=(10,)),
    )

    @staticmethod
    def slow(server: V2Server) -> V2Server:
        server.delay = 0.05
        return server

    def test_is_asked_by_single_inferences_whose_outputs_are_checked(self, tmp_path: Path) -> None:
        with v2_server() as (server, port):
            self.slow(server)
            (level,) = sweep(port, self.probe, tmp_path / "out", "--concurrency", "3").levels
        assert level.errors == 0
        assert 20 < level.throughput <= 62
        assert level.latency is not None
        assert level.latency.min >= 50

    def test_a_wrong_output_is_an_error(self, tmp_path: Path) -> None:
        with v2_server() as (server, port):
            answers = iter([True])
            server.outputs = lambda array: array * (2 if next(answers, False) else 3)
            with pytest.raises(UserError, match=r"no request had a good answer: .*wrong output 'OUT'"):
                sweep(port, self.probe, tmp_path / "out", "--concurrency", "1")

    def test_no_server_is_a_message(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="UNAVAILABLE"):
            sweep(9, self.probe, tmp_path / "out", "--concurrency", "1")
