"""Asks one gRPC probe with Triton's client: server live and ready, model metadata and, with inputs, one inference."""

import json
import struct
import urllib.parse

import numpy as np
import tritonclient.grpc as triton
from tritonclient.utils import InferenceServerException, triton_to_np_dtype

from engine_jobs.smoke_test.attempts import Answer, NotYet, ProbeFailed
from engine_jobs.smoke_test.endpoint import Origin
from engine_jobs.smoke_test.spec import GrpcProbe, Tensor


def grpc_target(probe: GrpcProbe, origin: Origin) -> tuple[str, str | None, bool]:
    """(host:port to connect to, `:authority` or None, TLS?)."""
    if probe.address is not None:
        return probe.address, probe.authority, False
    parts = urllib.parse.urlsplit(origin.base)
    tls = parts.scheme == "https"
    host = f"[{parts.hostname}]" if parts.hostname and ":" in parts.hostname else parts.hostname
    return f"{host}:{parts.port or (443 if tls else 80)}", probe.authority or origin.host, tls


def describe(probe: GrpcProbe, origin: Origin) -> str:
    """The calls in one line."""
    address, authority, _ = grpc_target(probe, origin)
    calls = ["ServerLive", "ServerReady", f"ModelMetadata({probe.model})"]
    if probe.inputs:
        tensors = ", ".join(f"{each.name} {each.datatype}[{','.join(map(str, each.shape))}]" for each in probe.inputs)
        calls.append(f"ModelInfer({tensors})")
    with_authority = f" with the authority {authority}" if authority else ""
    return f"grpc {address}{with_authority}: {', '.join(calls)}"


def ask(probe: GrpcProbe, origin: Origin, timeout_s: float) -> Answer:
    """Makes the calls once, each within `timeout_s`. Raises NotYet (ask again) or ProbeFailed (final)."""
    address, authority, tls = grpc_target(probe, origin)
    # Each attempt connects anew (a shared subchannel would sit out its own back-off), and no proxy stands in between.
    options: list[tuple[str, int | str]] = [("grpc.use_local_subchannel_pool", 1), ("grpc.enable_http_proxy", 0)]
    if authority is not None:
        options.append(("grpc.default_authority", authority))
        if tls:
            options.append(("grpc.ssl_target_name_override", authority))
    where = address if authority is None else f"{address} with the authority {authority}"
    with triton.InferenceServerClient(address, ssl=tls, channel_args=options) as client:
        try:
            return _converse(client, probe, timeout_s)
        except InferenceServerException as error:
            raise _explained(error, where, timeout_s) from None


def _converse(client: triton.InferenceServerClient, probe: GrpcProbe, timeout_s: float) -> Answer:
    if not client.is_server_live(client_timeout=timeout_s):
        raise NotYet("the server says that it is not live", status="OK")
    if not client.is_server_ready(client_timeout=timeout_s):
        raise NotYet("the server says that it is not ready", status="OK")
    metadata = client.get_model_metadata(probe.model, probe.version, client_timeout=timeout_s)
    if metadata.name != probe.model:
        raise ProbeFailed(f"asked for the metadata of {probe.model!r}, got that of {metadata.name!r}", status="OK")
    if not probe.inputs:
        return Answer(status="OK", text=None)
    result = client.infer(
        probe.model, [infer_input(each) for each in probe.inputs], model_version=probe.version, client_timeout=timeout_s
    )
    return judge_output(probe, result)


def judge_output(probe: GrpcProbe, result: triton.InferResult) -> Answer:
    """The output that the probe expects (or the first), as text. Raises ProbeFailed where it is not as expected."""
    expected = probe.expect_output
    names = [output.name for output in result.get_response().outputs]
    name = expected.name if expected is not None else names[0] if names else ""
    if name not in names:
        raise ProbeFailed(f"no output {name!r} in the answer (it has: {', '.join(names) or 'none'})", status="OK")
    try:
        array = result.as_numpy(name)
    except (ValueError, struct.error) as error:
        raise ProbeFailed(f"the output {name!r} cannot be read: {error}", status="OK") from None
    values = [each.decode("utf-8", "replace") if isinstance(each, bytes) else each for each in array.ravel().tolist()]
    text = f"{name}[{','.join(map(str, array.shape))}] = {_shown(values)}"
    if not values or all(each == "" for each in values):
        raise ProbeFailed(f"the output {name!r} is empty", status="OK", answer=text)
    if expected is not None and expected.prefix:
        # Numbers are compared in the tensor's own type: 0.1 is not 0.1 in FP32.
        prefix = list(expected.prefix) if array.dtype == object else np.array(expected.prefix, array.dtype).tolist()
        if values[: len(prefix)] != prefix:
            raise ProbeFailed(
                f"wrong output {name!r}: it should start so:\n  expected {_shown(prefix)}\n  got      {_shown(values)}",
                status="OK",
                answer=text,
            )
    return Answer(status="OK", text=text)


def infer_input(tensor: Tensor) -> triton.InferInput:
    """The tensor as Triton's client takes it. Raises ProbeFailed where its data is not of its type."""
    dtype = triton_to_np_dtype(tensor.datatype)
    try:
        values = [str(each).encode() for each in tensor.data] if tensor.datatype == "BYTES" else list(tensor.data)
        array = np.array(values, dtype=dtype).reshape(tensor.shape)
    except (ValueError, TypeError, OverflowError) as error:
        raise ProbeFailed(f"the data of the input {tensor.name!r} is no {tensor.datatype}: {error}") from None
    given = triton.InferInput(tensor.name, list(tensor.shape), tensor.datatype)
    given.set_data_from_numpy(array)
    return given


def _explained(error: InferenceServerException, where: str, timeout_s: float) -> ProbeFailed:
    status = str(error.status() or "").removeprefix("StatusCode.")
    message = str(error.message())
    if status == "DEADLINE_EXCEEDED":
        return ProbeFailed(f"no answer from {where} within {timeout_s:.1f} s: look at the server's log", status=status)
    if status == "UNAVAILABLE":
        return NotYet(f"{where} cannot be reached or has no ready backend: {message}", status=status)
    if status == "UNIMPLEMENTED" and "404" in message:
        return NotYet(f"the gateway has no gRPC route for this authority, {where}: {message}", status=status)
    return ProbeFailed(f"{where} answers {status or 'an error'}: {message}", status=status or None)


def _shown(values: list[object]) -> str:
    text = json.dumps(values, ensure_ascii=False)
    return text if len(text) <= 400 else text[:397] + "…"
