"""Server-side apply of the cluster's objects against a server that plays the apiserver."""

from typing import Any

import pytest

from engine_jobs.errors import UserError
from localcluster import manifests
from localcluster.apiserver_client import ApiserverClient, ApiserverError

NAMESPACE = {"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": "kserve"}}
DEFINITION = {
    "apiVersion": "apiextensions.k8s.io/v1",
    "kind": "CustomResourceDefinition",
    "metadata": {"name": "things.example.com"},
}
THING = {"apiVersion": "example.com/v1", "kind": "Thing", "metadata": {"name": "a", "namespace": "kserve"}}


class Apiserver(ApiserverClient):
    """Knows the core kinds, and the kind Thing from the second question after its definition was applied on."""

    def __init__(self) -> None:
        self.applied: dict[str, Any] = {}
        self.order: list[str] = []
        self.questions = 0
        self.refuse = ""

    def request(self, method: str, path: str, body: object = None, *, content_type: str = "application/json") -> Any:
        if method == "PATCH":
            path, _, query = path.partition("?")
            assert query == "fieldManager=llm-serving-local&force=true"
            assert content_type == "application/apply-patch+yaml"
            if path == self.refuse:
                raise ApiserverError(422, "spec is wrong")
            self.applied[path] = body
            self.order.append(path)
            return body
        return self._answer(path)

    def _answer(self, path: str) -> Any:
        if path == "/api/v1":
            return resources(("Namespace", "namespaces", False), ("ConfigMap", "configmaps", True))
        if path == "/apis/apiextensions.k8s.io/v1":
            return resources(("CustomResourceDefinition", "customresourcedefinitions", False))
        self.questions += 1
        if path == "/apis/example.com/v1" and self.questions > 2:
            return resources(("Thing", "things", True))
        if path.endswith("/things.example.com") and path in self.applied:
            established = "True" if self.questions > 1 else "False"
            return {"status": {"conditions": [{"type": "Established", "status": established}]}}
        if path in self.applied:
            return self.applied[path]
        raise ApiserverError(404, "not found")


def resources(*kinds: tuple[str, str, bool]) -> dict[str, Any]:
    listed = [{"kind": kind, "name": plural, "namespaced": namespaced} for kind, plural, namespaced in kinds]
    return {"resources": [*listed, {"kind": "Scale", "name": f"{kinds[0][1]}/scale", "namespaced": True}]}


class TestApply:
    def test_definitions_are_served_before_their_objects_are_made(self) -> None:
        server = Apiserver()
        manifests.apply(server, [THING, DEFINITION, NAMESPACE])
        assert server.order == [
            "/api/v1/namespaces/kserve",
            "/apis/apiextensions.k8s.io/v1/customresourcedefinitions/things.example.com",
            "/apis/example.com/v1/namespaces/kserve/things/a",
            "/api/v1/namespaces/kube-system/configmaps/llm-serving-local",
        ]

    def test_a_refused_object_is_named(self) -> None:
        server = Apiserver()
        server.refuse = "/api/v1/namespaces/kserve"
        with pytest.raises(UserError, match="the apiserver refused Namespace kserve: 422: spec is wrong"):
            manifests.apply(server, [NAMESPACE])


class TestTheRecord:
    def test_what_was_applied_is_known(self) -> None:
        server = Apiserver()
        assert not manifests.is_applied(server, [NAMESPACE])
        manifests.apply(server, [NAMESPACE])
        assert manifests.is_applied(server, [NAMESPACE])

    def test_a_change_is_noticed(self) -> None:
        server = Apiserver()
        manifests.apply(server, [NAMESPACE])
        assert not manifests.is_applied(server, [{**NAMESPACE, "metadata": {"name": "kserve", "labels": {"a": "b"}}}])

    def test_an_apply_that_broke_off_is_not_recorded(self) -> None:
        server = Apiserver()
        server.refuse = "/apis/example.com/v1/namespaces/kserve/things/a"
        objects = [NAMESPACE, DEFINITION, THING]
        with pytest.raises(UserError):
            manifests.apply(server, objects)
        assert not manifests.is_applied(server, objects)
