"""The ResourceProvider service of Pulumi for Kubernetes: requests in, answers and errors out."""

import threading
from collections.abc import Callable
from functools import wraps
from importlib.metadata import version
from typing import Any

import grpc
from google.protobuf import any_pb2, empty_pb2
from pulumi.runtime.proto import plugin_pb2, provider_pb2, provider_pb2_grpc, status_pb2

from localcluster.pulumi_resource_kubernetes import operations, settings
from localcluster.pulumi_resource_kubernetes.check import checked, difference
from localcluster.pulumi_resource_kubernetes.diff import Change, property_path
from localcluster.pulumi_resource_kubernetes.engine import Engine
from localcluster.pulumi_resource_kubernetes.errors import NotReadyError, ProviderError, UnreachableError
from localcluster.pulumi_resource_kubernetes.json_path import ExpressionError
from localcluster.pulumi_resource_kubernetes.naming import Autonaming, AutonamingMode, NamingError
from localcluster.pulumi_resource_kubernetes.objects import parse_id
from localcluster.pulumi_resource_kubernetes.operations import Outcome, Target
from localcluster.pulumi_resource_kubernetes.session import Session
from localcluster.pulumi_resource_kubernetes.values import from_struct, to_struct
from localcluster.pulumi_resource_kubernetes.yaml_documents import decode

_KINDS = {
    (Change.ADD, False): provider_pb2.PropertyDiff.ADD,
    (Change.ADD, True): provider_pb2.PropertyDiff.ADD_REPLACE,
    (Change.DELETE, False): provider_pb2.PropertyDiff.DELETE,
    (Change.DELETE, True): provider_pb2.PropertyDiff.DELETE_REPLACE,
    (Change.UPDATE, False): provider_pb2.PropertyDiff.UPDATE,
    (Change.UPDATE, True): provider_pb2.PropertyDiff.UPDATE_REPLACE,
}
Handler = Callable[[Any, Any, Any], Any]


def _with_errors(handler: Handler) -> Handler:
    """A message of ours becomes the call's error; anything else is a mistake of this provider and shows as one."""

    @wraps(handler)
    def handle(provider: Any, request: Any, context: grpc.ServicerContext) -> Any:
        try:
            return handler(provider, request, context)
        except (ProviderError, NamingError, ExpressionError) as error:
            return context.abort(grpc.StatusCode.UNKNOWN, str(error))

    return handle


class KubernetesProvider(provider_pb2_grpc.ResourceProviderServicer):
    """Answers the engine. Each awaited resource holds one of the server's threads."""

    def __init__(self, engine: Engine) -> None:
        self._engine = engine
        self._cancelled = threading.Event()
        self._session = Session(settings.Settings(), engine, self._cancelled)

    def cancel(self) -> None:
        """Ends every wait; what was waited for is recorded as not ready."""
        self._cancelled.set()

    def Handshake(self, request: Any, context: Any) -> Any:
        self._engine.connect(request.engine_address)
        return provider_pb2.ProviderHandshakeResponse(accept_secrets=True, supports_autonaming_configuration=True)

    def Attach(self, request: Any, context: Any) -> Any:
        self._engine.connect(request.address)
        return empty_pb2.Empty()

    def GetPluginInfo(self, request: Any, context: Any) -> Any:
        return plugin_pb2.PluginInfo(version=version("pulumi-kubernetes"))

    def GetSchema(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetSchemaResponse(
            schema=f'{{"name": "kubernetes", "version": "{version("pulumi-kubernetes")}"}}'
        )

    def GetMapping(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetMappingResponse()

    def GetMappings(self, request: Any, context: Any) -> Any:
        return provider_pb2.GetMappingsResponse()

    @_with_errors
    def CheckConfig(self, request: Any, context: Any) -> Any:
        found = settings.failures(from_struct(request.news))
        return provider_pb2.CheckResponse(
            inputs=request.news,
            failures=[provider_pb2.CheckFailure(property=key, reason=reason) for key, reason in found],
        )

    @_with_errors
    def DiffConfig(self, request: Any, context: Any) -> Any:
        changed, replaces = settings.changes(from_struct(request.olds), from_struct(request.news))
        some, none = provider_pb2.DiffResponse.DIFF_SOME, provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(changes=some if changed else none, diffs=changed, replaces=replaces)

    @_with_errors
    def Configure(self, request: Any, context: Any) -> Any:
        self._session = Session(settings.from_variables(request.variables), self._engine, self._cancelled)
        return provider_pb2.ConfigureResponse(
            acceptSecrets=True, supportsPreview=True, supports_autonaming_configuration=True
        )

    @_with_errors
    def Check(self, request: Any, context: Any) -> Any:
        if self._session.settings.skip_update_unreachable and self._session.cluster_or_none() is None:
            self._engine.warning(request.urn, "the cluster can't be reached: skipped (skipUpdateUnreachable)")
            return provider_pb2.CheckResponse(inputs=request.olds)
        autonaming = None
        if request.HasField("autonaming"):
            mode = AutonamingMode(request.autonaming.mode)
            autonaming = Autonaming(mode=mode, proposed=request.autonaming.proposed_name)
        news, olds = from_struct(request.news), from_struct(request.olds)
        inputs = checked(self._session, request.urn, news, olds, request.randomSeed, autonaming)
        return provider_pb2.CheckResponse(inputs=to_struct(inputs))

    @_with_errors
    def Diff(self, request: Any, context: Any) -> Any:
        state, old_inputs = from_struct(request.olds), from_struct(request.old_inputs)
        found = difference(self._session, request.urn, state, old_inputs, from_struct(request.news))
        some, none = provider_pb2.DiffResponse.DIFF_SOME, provider_pb2.DiffResponse.DIFF_NONE
        return provider_pb2.DiffResponse(
            changes=some if found.changes else none,
            replaces=[property_path(change.path) for change in found.changes if change.replaces],
            deleteBeforeReplace=found.delete_before_replace,
            detailedDiff={
                property_path(change.path): provider_pb2.PropertyDiff(
                    kind=_KINDS[change.change, change.replaces], inputDiff=True
                )
                for change in found.changes
            },
            hasDetailedDiff=True,
        )

    @_with_errors
    def Create(self, request: Any, context: Any) -> Any:
        target = Target(urn=request.urn, timeout_s=request.timeout, preview=request.preview)
        made = operations.create(self._session, target, from_struct(request.properties))
        _fail_if_not_ready(made, context)
        return provider_pb2.CreateResponse(id=made.identifier, properties=to_struct(made.outputs))

    @_with_errors
    def Update(self, request: Any, context: Any) -> Any:
        target = Target(urn=request.urn, timeout_s=request.timeout, preview=request.preview)
        ignored = [path.split(".") for path in request.ignoreChanges if "[" not in path]
        olds, news = from_struct(request.olds), from_struct(request.news)
        made = operations.update(self._session, target, olds, news, ignored)
        _fail_if_not_ready(made, context)
        return provider_pb2.UpdateResponse(properties=to_struct(made.outputs))

    @_with_errors
    def Read(self, request: Any, context: Any) -> Any:
        target = Target(urn=request.urn, timeout_s=request.timeout)
        state, inputs = from_struct(request.properties), from_struct(request.inputs)
        try:
            self._session.cluster()
        except UnreachableError as error:
            if self._session.settings.delete_unreachable:
                self._engine.warning(request.urn, f"removed from the state (deleteUnreachable): {error}")
                return provider_pb2.ReadResponse()
            if self._session.settings.skip_update_unreachable:
                self._engine.warning(request.urn, f"left as it was (skipUpdateUnreachable): {error}")
                return provider_pb2.ReadResponse(id=request.id, properties=request.properties, inputs=request.inputs)
            raise
        found = operations.read(self._session, target, request.id, state, inputs)
        if not found.identifier:
            # Without properties: that is how the engine knows that there is no such object.
            return provider_pb2.ReadResponse()
        _fail_if_not_ready(found, context, with_inputs=True)
        return provider_pb2.ReadResponse(
            id=found.identifier, properties=to_struct(found.outputs), inputs=to_struct(found.inputs)
        )

    @_with_errors
    def Delete(self, request: Any, context: Any) -> Any:
        target = Target(urn=request.urn, timeout_s=request.timeout)
        state = from_struct(request.properties)
        try:
            not_ready = operations.delete(self._session, target, request.id, state)
        except UnreachableError as error:
            if not self._session.settings.delete_unreachable:
                raise
            self._engine.warning(request.urn, f"removed from the state only (deleteUnreachable): {error}")
            return empty_pb2.Empty()
        if not_ready is not None:
            _, name = parse_id(request.id)
            made = Outcome(identifier=request.id or name, outputs=state, inputs={}, not_ready=not_ready)
            _fail_if_not_ready(made, context)
        return empty_pb2.Empty()

    @_with_errors
    def Invoke(self, request: Any, context: Any) -> Any:
        if request.tok != "kubernetes:yaml:decode":
            return _refuse(context, f"run {request.tok}")
        arguments = from_struct(request.args)
        text, namespace = str(arguments.get("text") or ""), str(arguments.get("defaultNamespace") or "")
        response = provider_pb2.InvokeResponse()
        # The field's name is a Python keyword.
        getattr(response, "return").CopyFrom(to_struct({"result": decode(text, namespace, self._session)}))
        return response

    def Call(self, request: Any, context: Any) -> Any:
        return _refuse(context, "call methods")

    def Construct(self, request: Any, context: Any) -> Any:
        return _refuse(context, f"make the component {request.type} (Helm charts, Kustomize directories, YAML v2)")

    def List(self, request: Any, context: Any) -> Any:
        return _refuse(context, "list resources")

    def Parameterize(self, request: Any, context: Any) -> Any:
        return _refuse(context, "be parameterized with CRDs: use kubernetes.apiextensions.CustomResource")

    def Cancel(self, request: Any, context: Any) -> Any:
        self.cancel()
        return empty_pb2.Empty()


def _fail_if_not_ready(made: Outcome, context: grpc.ServicerContext, *, with_inputs: bool = False) -> None:
    """Ends the call with the error that makes the engine record the resource, with its reasons, and fail the update."""
    error: NotReadyError | None = made.not_ready
    if error is None:
        return
    reasons = [str(error), *error.reasons]
    detail = any_pb2.Any()
    detail.Pack(
        provider_pb2.ErrorResourceInitFailed(
            id=made.identifier,
            properties=to_struct(made.outputs),
            reasons=reasons,
            inputs=to_struct(made.inputs) if with_inputs else None,
        )
    )
    status = status_pb2.Status(code=grpc.StatusCode.UNKNOWN.value[0], message=str(error), details=[detail])
    context.set_trailing_metadata((("grpc-status-details-bin", status.SerializeToString()),))
    context.abort(grpc.StatusCode.UNKNOWN, str(error))


def _refuse(context: grpc.ServicerContext, what: str) -> Any:
    return context.abort(
        grpc.StatusCode.UNIMPLEMENTED,
        f"this stand-in for pulumi-resource-kubernetes can't {what}: install the official provider "
        "(`pulumi plugin install resource kubernetes`)",
    )


def register(provider: KubernetesProvider, server: grpc.Server) -> None:
    """Adds the service to a gRPC server."""
    provider_pb2_grpc.add_ResourceProviderServicer_to_server(provider, server)
