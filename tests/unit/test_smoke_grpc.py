"""The smoke test over gRPC, against a real server with Triton's own stubs: authority, retries, outputs."""

import time
from collections.abc import Iterator

import numpy as np
import pytest

from engine_jobs.smoke_test import ExpectedOutput, GrpcProbe, SmokeTest, Tensor, UrlTarget, Verdict, run_smoke_test
from tests.unit.smoke_servers import V2Server, http_endpoint, recording_relay, unused_port, v2_server

AUTHORITY = "bloom-predictor-models.llm.localhost"
IDS = Tensor(name="IN", datatype="UINT32", shape=(1, 3), data=(1, 2, 3))
Server = tuple[V2Server, int]


@pytest.fixture
def server() -> Iterator[Server]:
    with v2_server() as started:
        yield started


def ask(port: int, probe: GrpcProbe, *, host: str | None = AUTHORITY, attempts: int = 4, timeout: float = 5) -> Verdict:
    target = UrlTarget(url=f"http://127.0.0.1:{port}", host=host)
    test = SmokeTest(name="bloom", target=target, probes=(probe,), attempts=attempts, request_timeout_s=timeout)
    return run_smoke_test(test)


def metadata(model: str = "doubler") -> GrpcProbe:
    return GrpcProbe(name="v2 gRPC", model=model)


def inference(tensor: Tensor = IDS, expect: ExpectedOutput | None = None) -> GrpcProbe:
    return GrpcProbe(name="v2 gRPC", model="doubler", inputs=(tensor,), expect_output=expect)


class TestAGoodServerPasses:
    def test_it_asks_under_the_services_authority(self, server: Server) -> None:
        with recording_relay(server[1]) as (port, sent):
            verdict = ask(port, inference())
        assert verdict.ok, verdict.text()
        # The HPACK encoder of gRPC writes header values as they are.
        assert AUTHORITY.encode() in sent
        assert f"127.0.0.1:{port}".encode() not in sent
        assert verdict.probes[0].status == "OK"
        assert f"127.0.0.1:{port} with the authority {AUTHORITY}" in verdict.probes[0].request
        assert "ModelInfer(IN UINT32[1,3])" in verdict.probes[0].request

    def test_the_probes_own_authority_comes_first(self, server: Server) -> None:
        with recording_relay(server[1]) as (port, sent):
            assert ask(port, GrpcProbe(name="g", model="doubler", authority="grpc.example")).ok
        assert b"grpc.example" in sent
        assert AUTHORITY.encode() not in sent

    def test_an_address_passes_the_gateway_by(self, server: Server) -> None:
        _, port = server
        probe = GrpcProbe(name="g", model="doubler", address=f"127.0.0.1:{port}")
        assert ask(unused_port(), probe).ok

    def test_metadata_alone_infers_nothing(self, server: Server) -> None:
        servicer, port = server
        verdict = ask(port, metadata())
        assert verdict.ok
        assert servicer.calls == 3
        assert verdict.probes[0].answer is None

    def test_the_output_is_the_answer(self, server: Server) -> None:
        verdict = ask(server[1], inference(expect=ExpectedOutput(name="OUT", prefix=(2, 4))))
        assert verdict.ok, verdict.text()
        assert verdict.probes[0].answer == "OUT[1,3] = [2, 4, 6]"

    def test_numbers_are_compared_in_the_tensors_type(self, server: Server) -> None:
        tensor = Tensor(name="IN", datatype="FP32", shape=(2,), data=(0.05, 1))
        assert ask(server[1], inference(tensor, ExpectedOutput(name="OUT", prefix=(0.1,)))).ok

    def test_text_goes_as_bytes(self, server: Server) -> None:
        tensor = Tensor(name="IN", datatype="BYTES", shape=(1,), data=("grüß",))
        verdict = ask(server[1], inference(tensor, ExpectedOutput(name="OUT", prefix=("grüßgrüß",))))
        assert verdict.ok, verdict.text()


class TestWhatPassesByItselfIsAskedAgain:
    def test_a_backend_that_is_still_to_appear(self, server: Server) -> None:
        servicer, port = server
        servicer.refusals = 2
        verdict = ask(port, metadata())
        assert verdict.ok, verdict.text()
        assert verdict.probes[0].attempts == 3

    def test_a_route_that_is_still_to_appear(self, server: Server) -> None:
        server[0].unrouted = 1
        verdict = ask(server[1], metadata())
        assert verdict.ok, verdict.text()
        assert verdict.probes[0].attempts == 2

    def test_a_gateway_without_grpc(self) -> None:
        with http_endpoint({}) as endpoint:
            verdict = ask(int(endpoint.url.rpartition(":")[2]), metadata(), attempts=2)
        assert not verdict.ok
        assert verdict.probes[0].attempts == 2
        assert f"with the authority {AUTHORITY}" in (verdict.error or "")

    def test_nobody_listens(self) -> None:
        port = unused_port()
        verdict = ask(port, metadata(), attempts=2)
        assert verdict.probes[0].status == "UNAVAILABLE"
        assert f"127.0.0.1:{port} with the authority {AUTHORITY} cannot be reached" in (verdict.error or "")

    @pytest.mark.parametrize("state", ["live", "ready"])
    def test_a_server_that_says_it_is_not_ready(self, server: Server, state: str) -> None:
        setattr(server[0], state, False)
        verdict = ask(server[1], metadata(), attempts=2)
        assert verdict.probes[0].attempts == 2
        assert f"the server says that it is not {state}" in (verdict.error or "")


class TestAWrongAnswerIsFinal:
    def failed(self, port: int, probe: GrpcProbe) -> str:
        verdict = ask(port, probe)
        assert not verdict.ok
        assert verdict.probes[0].attempts == 1
        return verdict.error or ""

    def test_an_unknown_model(self, server: Server) -> None:
        error = self.failed(server[1], metadata("no-such-model"))
        assert "answers NOT_FOUND: Request for unknown model: 'no-such-model' is not found" in error

    def test_other_values(self, server: Server) -> None:
        error = self.failed(server[1], inference(expect=ExpectedOutput(name="OUT", prefix=(2, 5))))
        assert "wrong output 'OUT'" in error
        assert "expected [2, 5]" in error
        assert "got      [2, 4, 6]" in error

    def test_fewer_values_than_expected(self, server: Server) -> None:
        error = self.failed(server[1], inference(expect=ExpectedOutput(name="OUT", prefix=(2, 4, 6, 8))))
        assert "wrong output 'OUT'" in error

    def test_no_such_output(self, server: Server) -> None:
        error = self.failed(server[1], inference(expect=ExpectedOutput(name="output_ids")))
        assert "no output 'output_ids' in the answer (it has: OUT)" in error

    def test_an_empty_output(self, server: Server) -> None:
        server[0].outputs = lambda array: array[:, :0]
        assert "the output 'OUT' is empty" in self.failed(server[1], inference())

    def test_an_empty_text(self, server: Server) -> None:
        server[0].outputs = lambda array: np.array([b""], dtype=object)
        tensor = Tensor(name="IN", datatype="BYTES", shape=(1,), data=("x",))
        assert "the output 'OUT' is empty" in self.failed(server[1], inference(tensor))

    def test_data_that_does_not_fit_the_type(self, server: Server) -> None:
        tensor = Tensor(name="IN", datatype="UINT32", shape=(1,), data=("x",))
        assert "the data of the input 'IN' is no UINT32" in self.failed(server[1], inference(tensor))


class TestNothingHangs:
    def test_a_server_that_never_answers(self, server: Server) -> None:
        server[0].delay = 3
        started = time.monotonic()
        verdict = ask(server[1], metadata(), timeout=0.5)
        assert time.monotonic() - started < 2.5
        assert verdict.probes[0].attempts == 1
        assert verdict.probes[0].status == "DEADLINE_EXCEEDED"
        assert "within 0.5 s" in (verdict.error or "")
