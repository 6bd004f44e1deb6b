"""Deleting with the stand-in provider, against a real apiserver."""

from collections.abc import Callable
from concurrent.futures import Future

from localcluster.pulumi_resource_kubernetes import operations
from localcluster.pulumi_resource_kubernetes.operations import Outcome, Target
from localcluster.pulumi_resource_kubernetes.session import Session
from tests.engine.control_plane import ControlPlane
from tests.engine.direct import NAMESPACE, urn_of


class TestDeletion:
    def test_waits_until_it_is_gone_and_names_what_holds_it(
        self, plane: ControlPlane, creating: Callable[..., Future[Outcome]], session: Session
    ) -> None:
        held = {"name": "held", "finalizers": ["example.com/hold"]}
        obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": held}
        made = creating(obj).result(10)
        target = Target(urn=urn_of(obj), timeout_s=1.5)
        left = operations.delete(session, target, made.identifier, made.outputs)
        assert left is not None and "example.com/hold" in "\n".join(left.reasons)
        plane.merge(f"{NAMESPACE}/configmaps/held", {"metadata": {"finalizers": None}})
        again = operations.delete(session, Target(urn=urn_of(obj)), made.identifier, made.outputs)
        assert again is None
        assert operations.delete(session, Target(urn=urn_of(obj)), made.identifier, made.outputs) is None, (
            "gone is fine"
        )

    def test_of_a_patch_does_not_bring_the_object_back(
        self, plane: ControlPlane, session: Session, creating: Callable[..., Future[Outcome]]
    ) -> None:
        obj = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "patched"}}
        creating(obj).result(10)
        urn = urn_of(obj).replace("ConfigMap", "ConfigMapPatch")
        inputs = {**obj, "metadata": {"name": "patched", "namespace": "default", "annotations": {"a": "b"}}}
        patched = operations.create(session, Target(urn=urn), inputs)
        assert plane.get(f"{NAMESPACE}/configmaps/patched")["metadata"]["annotations"] == {"a": "b"}
        operations.delete(session, Target(urn=urn), patched.identifier, patched.outputs)
        assert "annotations" not in plane.get(f"{NAMESPACE}/configmaps/patched")["metadata"]

        patched = operations.create(session, Target(urn=urn), inputs)
        plane.request("DELETE", f"{NAMESPACE}/configmaps/patched")
        assert operations.delete(session, Target(urn=urn), patched.identifier, patched.outputs) is None
        assert plane.get(f"{NAMESPACE}/configmaps/patched") is None
