"""Asks a gRPC probe again and again with Triton's client: one inference, or the stream of a decoupled model."""

import asyncio
import struct
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

import tritonclient.grpc as triton
import tritonclient.grpc.aio as triton_aio
from tritonclient.utils import InferenceServerException

from engine_jobs.load.sample import Answered, RequestFailed
from engine_jobs.smoke_test.attempts import ProbeFailed
from engine_jobs.smoke_test.endpoint import Origin
from engine_jobs.smoke_test.grpc_probe import grpc_target, infer_input, judge_output
from engine_jobs.smoke_test.spec import GrpcProbe


class GrpcClient:
    """One channel. A model whose transaction policy is decoupled is asked by streams, one for each request."""

    def __init__(
        self, client: Any, probes: Sequence[GrpcProbe], timeout_s: float, *, decoupled: bool
    ) -> None:  # tritonclient ships no types
        self._client = client
        self._probes = probes
        self._inputs = [[infer_input(tensor) for tensor in probe.inputs] for probe in probes]
        self._timeout_s = timeout_s
        self._decoupled = decoupled

    @staticmethod
    async def connect(probes: Sequence[GrpcProbe], origin: Origin, timeout_s: float) -> "GrpcClient":
        """Raises RequestFailed where the server does not tell the model's configuration."""
        address, authority, tls = grpc_target(probes[0], origin)
        options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
        if authority is not None:
            options.append(("grpc.default_authority", authority))
            if tls:
                options.append(("grpc.ssl_target_name_override", authority))
        client = triton_aio.InferenceServerClient(address, ssl=tls, channel_args=options)
        try:
            return GrpcClient(client, probes, timeout_s, decoupled=await _is_decoupled(client, probes[0], timeout_s))
        except BaseException:
            await client.close()
            raise

    async def ask(self, number: int) -> Answered:
        turn = number % len(self._probes)
        probe, inputs = self._probes[turn], self._inputs[turn]
        try:
            if self._decoupled:
                return await self._stream(probe, inputs)
            result = await self._client.infer(
                probe.model, inputs, model_version=probe.version, client_timeout=self._timeout_s
            )
            return Answered(text=judge_output(probe, result).text or "")
        except ProbeFailed as error:
            raise RequestFailed(str(error).partition("\n")[0]) from None
        except InferenceServerException as error:
            raise _failed(error) from None

    async def close(self) -> None:
        await self._client.close()

    async def _stream(self, probe: GrpcProbe, inputs: list[triton.InferInput]) -> Answered:
        async def request() -> AsyncIterator[dict[str, Any]]:
            yield {"model_name": probe.model, "inputs": inputs, "model_version": probe.version}

        texts, arrivals = [], []
        try:
            async with asyncio.timeout(self._timeout_s):
                async for result, error in self._client.stream_infer(request()):
                    arrived = time.perf_counter()
                    if error is not None:
                        raise _failed(error)
                    if text := _text(probe, result):
                        texts.append(text)
                        arrivals.append(arrived)
        except TimeoutError:
            raise RequestFailed(f"no complete answer within {self._timeout_s:g} s") from None
        if not texts:
            raise RequestFailed("the answer is empty")
        return Answered(text="".join(texts), arrivals=tuple(arrivals))


def ask_once(probe: GrpcProbe, origin: Origin, timeout_s: float) -> None:
    """One request. Raises ProbeFailed where its answer is not as it should be."""

    async def ask() -> None:
        client = await GrpcClient.connect([probe], origin, timeout_s)
        try:
            await client.ask(0)
        finally:
            await client.close()

    try:
        asyncio.run(ask())
    except RequestFailed as error:
        raise ProbeFailed(str(error)) from None


async def _is_decoupled(client: Any, probe: GrpcProbe, timeout_s: float) -> bool:
    try:
        answer = await client.get_model_config(probe.model, probe.version, client_timeout=timeout_s)
    except InferenceServerException as error:
        if str(error.status() or "").endswith("UNIMPLEMENTED"):  # a v2 server without Triton's extension
            return False
        raise _failed(error) from None
    return bool(answer.config.model_transaction_policy.decoupled)


def _text(probe: GrpcProbe, result: Any) -> str:
    """A response's expected output (or its first) as text; numbers are joined by spaces. Empty for an empty final response."""
    names = [output.name for output in result.get_response().outputs]
    name = probe.expect_output.name if probe.expect_output else names[0] if names else ""
    if name not in names:
        return ""
    try:
        values = result.as_numpy(name).ravel().tolist()
    except (ValueError, struct.error) as error:
        raise RequestFailed(f"the output {name!r} cannot be read: {error}") from None
    if all(isinstance(each, bytes) for each in values):
        return b"".join(values).decode("utf-8", "replace")
    return " ".join(map(str, values)) + " "


def _failed(error: InferenceServerException) -> RequestFailed:
    status = str(error.status() or "").removeprefix("StatusCode.")
    message = " ".join(str(error.message()).split())[:120]
    return RequestFailed(": ".join(part for part in (status, message) if part))
