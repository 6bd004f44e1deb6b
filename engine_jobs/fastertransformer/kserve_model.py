"""The transformer as a model of KServe's own Python server. Everything that needs no KServe is in completion.py."""

from collections.abc import Mapping
from contextvars import ContextVar
from typing import Any
from uuid import uuid4

import grpc
import httpx
from kserve import InferInput, InferRequest, InferResponse, Model, ModelServer
from kserve.errors import InferenceError, InvalidInput, ModelNotReady
from kserve.model import InferenceVerb
from kserve.predictor_config import PredictorConfig
from kserve.protocol.grpc.grpc_predict_v2_pb2 import ModelMetadataRequest
from kserve.protocol.grpc.grpc_predict_v2_pb2_grpc import GRPCInferenceServiceStub
from numpy.typing import NDArray

from engine_jobs.fastertransformer.completion import BadRequest, PromptTokenizer, read_prompts
from engine_jobs.fastertransformer.transformer import Options

METADATA_TIMEOUT_S = 10.0
_REFUSED = (grpc.StatusCode.INVALID_ARGUMENT, grpc.StatusCode.OUT_OF_RANGE)

# What a request asked for, from its preprocess to its postprocess, which run in one task.
_asked: ContextVar[Mapping[str, NDArray[Any]]] = ContextVar("asked")

Metadata = dict[str, list[dict[str, Any]]]


class FasterTransformerModel(Model):  # type: ignore[misc]  # kserve has no types
    """Text to token ids (preprocess), the predictor (KServe's own client), token ids to text (postprocess)."""

    def __init__(self, options: Options, tokenizer: PromptTokenizer) -> None:
        super().__init__(options.model_name)
        self.options = options
        self.tokenizer = tokenizer
        self.ready = True

    async def __call__(
        self, body: Any, headers: dict[str, str] | None = None, verb: InferenceVerb = InferenceVerb.PREDICT
    ) -> Any:
        if isinstance(body, InferRequest):  # the v2 protocol carries the model's own tensors already
            return await self.predict(body, headers), {}
        return await super().__call__(body, headers, verb)

    async def preprocess(self, payload: Any, headers: dict[str, str] | None = None) -> InferRequest:
        """Raises InvalidInput, which the server answers with 400."""
        try:
            tensors = self.tokenizer.tensors(read_prompts(payload, self.options.limits), self.options.limits)
        except BadRequest as error:
            raise InvalidInput(str(error)) from error
        _asked.set(tensors)
        inputs = []
        for name, array in tensors.items():
            tensor = InferInput(
                name=name, shape=list(array.shape), datatype=array.dtype.name.upper().replace("FLOAT", "FP")
            )
            tensor.set_data_from_numpy(array, binary_data=self.options.protocol == "grpc-v2")
            inputs.append(tensor)
        return InferRequest(self.name, inputs, request_id=str(uuid4()))

    async def predict(
        self, payload: Any, headers: dict[str, str] | None = None, response_headers: dict[str, str] | None = None
    ) -> InferResponse:
        """Raises InvalidInput for what the predictor refuses, ModelNotReady (503) where it does not answer, else InferenceError."""
        host = self.options.predictor_host
        try:
            return await super().predict(payload, headers, response_headers)
        except httpx.HTTPStatusError as error:
            if error.response.status_code == httpx.codes.BAD_REQUEST:
                raise InvalidInput(f"the predictor refused the request: {error}") from error
            raise InferenceError(f"the predictor failed: {error}") from error
        except httpx.TransportError as error:
            raise ModelNotReady(self.name, f"The predictor at {host} does not answer: {_why(error)}") from error
        except grpc.aio.AioRpcError as error:
            if error.code() in _REFUSED:
                raise InvalidInput(f"the predictor refused the request: {error.details()}") from error
            if error.code() == grpc.StatusCode.UNAVAILABLE:
                raise ModelNotReady(self.name, f"The predictor at {host} does not answer: {_why(error)}") from error
            raise InferenceError(f"the predictor failed: {_why(error)}") from error

    async def postprocess(
        self,
        result: InferResponse,
        headers: dict[str, str] | None = None,
        response_headers: dict[str, str] | None = None,
    ) -> list[list[str]]:
        """A list of texts, one for each beam, for each input. Raises InferenceError for an answer without the model's tensors."""
        outputs = {output.name: output for output in result.outputs}
        missing = [name for name in ("output_ids", "sequence_length") if name not in outputs]
        if missing:
            raise InferenceError(f"the predictor's answer has no {' and no '.join(missing)}")
        output_ids, sequence_length = outputs["output_ids"].as_numpy(), outputs["sequence_length"].as_numpy()
        return self.tokenizer.texts(_asked.get(), output_ids, sequence_length)

    async def get_input_types(self) -> list[dict[str, Any]]:
        return (await self._metadata())["inputs"]

    async def get_output_types(self) -> list[dict[str, Any]]:
        return (await self._metadata())["outputs"]

    async def _metadata(self) -> Metadata:
        """The predictor's: name, datatype and shape of each tensor. Raises ModelNotReady where it can't be had."""
        host = self.options.predictor_host
        try:
            if self.options.protocol == "grpc-v2":
                return await self._grpc_metadata()
            scheme = "https" if self.options.use_ssl else "http"
            async with httpx.AsyncClient(timeout=METADATA_TIMEOUT_S) as client:
                answer = await client.get(f"{scheme}://{host}/v2/models/{self.name}")
            answer.raise_for_status()
            document = answer.json()
            return {"inputs": document["inputs"], "outputs": document["outputs"]}
        except (httpx.HTTPError, grpc.aio.AioRpcError, ValueError, KeyError) as error:
            raise ModelNotReady(self.name, f"The predictor at {host} gives no metadata: {_why(error)}") from error

    async def _grpc_metadata(self) -> Metadata:
        host = self.options.predictor_host
        credentials = grpc.ssl_channel_credentials() if self.options.use_ssl else None
        channel = grpc.aio.secure_channel(host, credentials) if credentials else grpc.aio.insecure_channel(host)
        async with channel:
            request = ModelMetadataRequest(name=self.name)
            answer = await GRPCInferenceServiceStub(channel).ModelMetadata(request, timeout=METADATA_TIMEOUT_S)

        def types(tensors: Any) -> list[dict[str, Any]]:
            return [{"name": each.name, "datatype": each.datatype, "shape": list(each.shape)} for each in tensors]

        return {"inputs": types(answer.inputs), "outputs": types(answer.outputs)}


def _why(error: Exception) -> str:
    """The error in one line."""
    if isinstance(error, grpc.aio.AioRpcError):
        return f"{error.code().name}: {error.details()}"
    return (str(error) or type(error).__name__).splitlines()[0]


def serve(options: Options, tokenizer: PromptTokenizer) -> None:
    """Serves until SIGTERM."""
    config = PredictorConfig(
        predictor_host=options.predictor_host,
        predictor_protocol=options.protocol,
        predictor_use_ssl=options.use_ssl,
        predictor_request_timeout_seconds=options.request_timeout,
    )
    server = ModelServer(http_port=options.http_port, predictor_config=config)
    server.start([FasterTransformerModel(options, tokenizer)])
