"""Requests to an apiserver: any kind of object, found by discovery, through the official client's connection."""

import json
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from localcluster.pulumi_resource_kubernetes.errors import ApiError, NoSuchKindError, UnreachableError
from localcluster.pulumi_resource_kubernetes.kubeconfig import Access
from localcluster.pulumi_resource_kubernetes.objects import api_version_of, kind_of, name_of, namespace_of
from localcluster.pulumi_resource_kubernetes.values import Object

_CONNECT_TIMEOUT_S = 5.0
# A kind that wasn't there may be there now (its CRD was just made): ask again, but not for every object of it.
_REDISCOVER_S = 0.5
APPLY = "application/apply-patch+yaml"
JSON_PATCH = "application/json-patch+json"


@dataclass(frozen=True, kw_only=True)
class ApiResource:
    """Where a kind's objects are served."""

    root: str  # /api/v1 or /apis/GROUP/VERSION
    plural: str
    namespaced: bool

    def path(self, namespace: str, name: str = "") -> str:
        """The path of one object, or of the collection for an empty name."""
        scope = f"/namespaces/{namespace}" if self.namespaced and namespace else ""
        return f"{self.root}{scope}/{self.plural}" + (f"/{name}" if name else "")


@dataclass(frozen=True, kw_only=True)
class Answer:
    """What the apiserver sent back, with the warnings it gave along."""

    body: Any
    warnings: tuple[str, ...]


class Cluster:
    """One cluster, as one user. Safe to use from several threads."""

    def __init__(self, access: Access, timeout_s: float) -> None:
        self._access = access
        self._timeout = (_CONNECT_TIMEOUT_S, timeout_s)
        self._lock = threading.Lock()
        self._checking = threading.Lock()
        self._unreachable: UnreachableError | None = None
        self._reached = False
        self._kinds: dict[str, dict[str, ApiResource]] = {}
        self._discovered_at: dict[str, float] = {}

    @property
    def namespace(self) -> str:
        """Where namespaced objects go that name none."""
        return self._access.namespace

    def reach(self) -> None:
        """Raises UnreachableError unless the apiserver answers. It is asked once."""
        with self._checking:
            if self._unreachable is not None:
                raise self._unreachable
            if self._reached:
                return
            try:
                self.request("GET", "/version")
            except UnreachableError as error:
                self._unreachable = error
                raise
            except ApiError as error:
                if error.status not in (401, 403):
                    raise
                if error.status == 401:
                    self._unreachable = UnreachableError(
                        self._access.described, f"it refuses the credentials ({error})"
                    )
                    raise self._unreachable from None
            self._reached = True

    def request(
        self,
        method: str,
        path: str,
        *,
        query: Mapping[str, str] | None = None,
        body: Any = None,
        content_type: str = "application/json",
        as_text: bool = False,
    ) -> Answer:
        """One request. Raises ApiError for an answer that isn't 2xx, UnreachableError for none."""
        from kubernetes.client.exceptions import ApiException
        from urllib3.exceptions import HTTPError

        try:
            response, _, headers = self._access.client.call_api(
                path,
                method,
                query_params=list((query or {}).items()),
                header_params={"Accept": "*/*" if as_text else "application/json", "Content-Type": content_type},
                body=body,
                auth_settings=["BearerToken"],
                _preload_content=False,
                _request_timeout=self._timeout,
            )
            content = response.data.decode(errors="replace")
        except ApiException as error:
            if not error.status:
                raise UnreachableError(self._access.described, str(error.reason)) from None
            raise ApiError.from_body(error.status, error.reason or "", error.body) from None
        except (HTTPError, OSError) as error:
            raise UnreachableError(self._access.described, str(error)) from None
        warnings = tuple(_warning_text(value) for key, value in headers.items() if key.lower() == "warning")
        return Answer(body=content if as_text else json.loads(content or "null"), warnings=warnings)

    def resource(self, api_version: str, kind: str) -> ApiResource:
        """Where a kind is served. Raises NoSuchKindError where the cluster doesn't know it (yet)."""
        with self._lock:
            known = self._kinds.get(api_version, {})
            age = time.monotonic() - self._discovered_at.get(api_version, float("-inf"))
            if kind not in known and age > _REDISCOVER_S:
                known = self._kinds[api_version] = self._discover(api_version)
                self._discovered_at[api_version] = time.monotonic()
        if kind not in known:
            raise NoSuchKindError(api_version, kind)
        return known[kind]

    def _discover(self, api_version: str) -> dict[str, ApiResource]:
        root = f"/apis/{api_version}" if "/" in api_version else f"/api/{api_version}"
        try:
            listed = self.request("GET", root).body
        except ApiError as error:
            if error.not_found:
                return {}
            raise
        return {
            entry["kind"]: ApiResource(root=root, plural=entry["name"], namespaced=entry["namespaced"])
            for entry in listed.get("resources", [])
            if "/" not in entry["name"]
        }

    def path_of(self, obj: Object, *, named: bool = True) -> str:
        """The path of an object, or of the collection that it belongs to."""
        resource = self.resource(api_version_of(obj), kind_of(obj))
        return resource.path(namespace_of(obj), name_of(obj) if named else "")

    def get(self, obj: Object) -> Object:
        """The live object of the same kind, namespace and name. Raises ApiError (404)."""
        return self._object("GET", self.path_of(obj))

    def list(self, api_version: str, kind: str, namespace: str, **selectors: str) -> list[Object]:
        """The objects of a kind in a namespace (labelSelector, fieldSelector)."""
        path = self.resource(api_version, kind).path(namespace)
        listed = self.request("GET", path, query=selectors).body
        return [{"apiVersion": api_version, "kind": kind, **item} for item in listed.get("items") or []]

    def _object(self, method: str, path: str, **options: Any) -> Object:
        body: Object = self.request(method, path, **options).body
        return body

    def pod_log(self, namespace: str, pod: str, container: str, *, lines: int, previous: bool) -> str:
        """The last lines that a container wrote."""
        query = {"container": container, "tailLines": str(lines), "previous": "true" if previous else "false"}
        path = f"/api/v1/namespaces/{namespace}/pods/{pod}/log"
        return str(self.request("GET", path, query=query, as_text=True).body)


def _warning_text(header: str) -> str:
    """The text of `299 - "text"` (RFC 7234)."""
    _, quote, rest = header.partition('"')
    return rest.rpartition('"')[0].replace('\\"', '"') if quote else header
