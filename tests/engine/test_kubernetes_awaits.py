"""What the stand-in provider waits for, against a real apiserver and its controllers; no engine, no node.

A pod's status is patched by the test, as its kubelet would set it.
"""

import time
from collections.abc import Callable
from concurrent.futures import Future
from typing import Any

import pytest

from localcluster.pulumi_resource_kubernetes import operations
from localcluster.pulumi_resource_kubernetes.check import checked
from localcluster.pulumi_resource_kubernetes.json_path import ExpressionError
from localcluster.pulumi_resource_kubernetes.operations import Outcome, Target
from localcluster.pulumi_resource_kubernetes.session import Session
from tests.engine.control_plane import ControlPlane
from tests.engine.direct import NAMESPACE, Recorder, urn_of
from tests.engine.pods import PODS, end_pod


def _job(name: str, **spec: Any) -> dict[str, Any]:
    container = {"name": "main", "image": "localhost/none:1", "terminationMessagePolicy": "FallbackToLogsOnError"}
    template = {"spec": {"restartPolicy": "Never", "containers": [container]}}
    metadata = {"name": name, "annotations": {"pulumi.com/replaceUnready": "true"}}
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": metadata,
        "spec": {"backoffLimit": 0, "template": template, **spec},
    }


def _end_pod(plane: ControlPlane, selector: str, *, exit_code: int, message: str = "") -> None:
    end_pod(plane, plane.wait_for(f"{PODS}?labelSelector={selector}")["items"][0], exit_code, message)


class TestAJob:
    def test_is_ready_when_it_is_complete(
        self, plane: ControlPlane, creating: Callable[..., Future[Outcome]], engine: Recorder
    ) -> None:
        future = creating(_job("completes"))
        _end_pod(plane, "job-name=completes", exit_code=0)
        made = future.result(30)
        assert made.not_ready is None
        assert made.outputs["status"]["succeeded"] == 1
        assert any("Waiting for Job completes to" in line for line in engine.shown)

    def test_that_fails_says_what_its_container_said(
        self, plane: ControlPlane, creating: Callable[..., Future[Outcome]], session: Session
    ) -> None:
        future = creating(_job("fails"))
        _end_pod(plane, "job-name=fails", exit_code=3, message="line one\nout of disk")
        made = future.result(30)
        assert made.not_ready is not None
        reasons = "\n".join(made.not_ready.reasons)
        assert "BackoffLimitExceeded" in reasons
        assert "exit code 3" in reasons and "out of disk" in reasons
        assert made.identifier == "default/fails", "the state must keep it"
        target = Target(urn=urn_of(_job("fails")))
        found = operations.read(session, target, made.identifier, made.outputs, made.inputs)
        assert found.not_ready is not None, "a refresh sees the failure too"

    def test_has_its_own_time_out_and_is_recorded_after_it(
        self, creating: Callable[..., Future[Outcome]], engine: Recorder
    ) -> None:
        began = time.monotonic()
        made = creating(_job("slow"), timeout_s=1.5).result(20)
        assert 1.4 < time.monotonic() - began < 10
        assert made.not_ready is not None
        assert "wasn't ready within 1.5 s" in str(made.not_ready)
        assert made.identifier == "default/slow"

    def test_can_be_cancelled(
        self, creating: Callable[..., Future[Outcome]], session: Session, plane: ControlPlane
    ) -> None:
        future = creating(_job("cancelled"))
        plane.wait_for(f"{PODS}?labelSelector=job-name=cancelled")
        session.cancelled.set()
        made = future.result(10)
        assert made.not_ready is not None and "cancelled" in str(made.not_ready)

    def test_that_should_not_be_awaited_is_not(self, creating: Callable[..., Future[Outcome]]) -> None:
        job = _job("unawaited")
        job["metadata"]["annotations"] = {"pulumi.com/skipAwait": "true"}
        assert creating(job).result(10).not_ready is None


class TestADeployment:
    def test_is_ready_when_its_pods_are_available(
        self, plane: ControlPlane, creating: Callable[..., Future[Outcome]]
    ) -> None:
        plane.request("POST", "/api/v1/nodes", {"apiVersion": "v1", "kind": "Node", "metadata": {"name": "one"}})
        labels = {"app": "web"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"nodeName": "one", "containers": [{"name": "main", "image": "localhost/none:1"}]},
        }
        spec = {"replicas": 1, "selector": {"matchLabels": labels}, "template": template}
        future = creating({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"}, "spec": spec})
        pod = plane.wait_for(f"{PODS}?labelSelector=app=web")["items"][0]
        service = {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "web"},
            "spec": {"selector": labels, "ports": [{"port": 80}]},
        }
        served = creating(service)
        time.sleep(0.5)
        assert not future.done() and not served.done()
        ready = {"type": "Ready", "status": "True", "lastTransitionTime": "2020-01-01T00:00:00Z"}
        status = {
            "phase": "Running",
            "podIP": "10.9.9.9",
            "podIPs": [{"ip": "10.9.9.9"}],
            "conditions": [ready],
        }
        plane.merge(f"{PODS}/{pod['metadata']['name']}/status", {"status": status})
        began = time.monotonic()
        made = future.result(20)
        assert made.not_ready is None
        assert made.outputs["status"]["readyReplicas"] == 1
        assert served.result(20).not_ready is None
        assert time.monotonic() - began < 8, "a Service with ready pods isn't kept waiting"

    def test_that_has_no_rollout_says_why(self, plane: ControlPlane, creating: Callable[..., Future[Outcome]]) -> None:
        labels = {"app": "stuck"}
        template = {
            "metadata": {"labels": labels},
            "spec": {"containers": [{"name": "main", "image": "localhost/none:1"}]},
        }
        spec = {"selector": {"matchLabels": labels}, "template": template}
        deployment = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "stuck"}, "spec": spec}
        future = creating(deployment, timeout_s=4.0)
        pod = plane.wait_for(f"{PODS}?labelSelector=app=stuck")["items"][0]
        waiting = {"reason": "ErrImagePull", "message": "no such image"}
        container = {
            "name": "main",
            "image": "x",
            "imageID": "",
            "ready": False,
            "restartCount": 0,
            "state": {"waiting": waiting},
        }
        status = {"phase": "Pending", "containerStatuses": [container]}
        plane.merge(f"{PODS}/{pod['metadata']['name']}/status", {"status": status})
        made = future.result(20)
        assert made.not_ready is not None
        assert "ErrImagePull: no such image" in "\n".join(made.not_ready.reasons)


class TestVolumes:
    def test_are_ready_when_bound(self, plane: ControlPlane, creating: Callable[..., Future[Outcome]]) -> None:
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "work"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "by-hand",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        volume = {
            "apiVersion": "v1",
            "kind": "PersistentVolume",
            "metadata": {"name": "work"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "by-hand",
                "capacity": {"storage": "1Gi"},
                "hostPath": {"path": "/nonexistent"},
            },
        }
        claimed = creating(claim)
        time.sleep(0.5)
        assert not claimed.done()
        # A wrong namespace on a cluster-scoped object would be refused: the provider leaves it out.
        volume["metadata"] = {"name": "work", "namespace": ""}
        assert creating(volume).result(30).not_ready is None
        assert claimed.result(30).not_ready is None

    def test_that_wait_for_a_consumer_are_ready_while_pending(
        self, plane: ControlPlane, creating: Callable[..., Future[Outcome]]
    ) -> None:
        plane.request(
            "POST",
            "/apis/storage.k8s.io/v1/storageclasses",
            {
                "apiVersion": "storage.k8s.io/v1",
                "kind": "StorageClass",
                "metadata": {"name": "late"},
                "provisioner": "example.com/none",
                "volumeBindingMode": "WaitForFirstConsumer",
            },
        )
        claim = {
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": {"name": "late"},
            "spec": {
                "accessModes": ["ReadWriteOnce"],
                "storageClassName": "late",
                "resources": {"requests": {"storage": "1Gi"}},
            },
        }
        assert creating(claim).result(20).not_ready is None


class TestWaitFor:
    def test_waits_for_a_field_and_its_value(
        self, plane: ControlPlane, creating: Callable[..., Future[Outcome]]
    ) -> None:
        annotations = {"pulumi.com/waitFor": '["jsonpath={.data.done}=yes", "jsonpath={.data.also}"]'}
        future = creating(
            {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "signal", "annotations": annotations}}
        )
        plane.wait_for(f"{NAMESPACE}/configmaps/signal")
        plane.merge(f"{NAMESPACE}/configmaps/signal", {"data": {"done": "no"}})
        time.sleep(1.2)
        assert not future.done()
        plane.merge(f"{NAMESPACE}/configmaps/signal", {"data": {"done": "yes", "also": "1"}})
        made = future.result(10)
        assert made.not_ready is None
        assert made.outputs["data"]["done"] == "yes", "the outputs are those of the object that was waited for"

    def test_an_expression_that_nobody_understands_is_an_error_before_anything_is_made(self, session: Session) -> None:
        metadata = {"name": "odd", "annotations": {"pulumi.com/waitFor": "jsonpath='{.data}'"}}
        odd = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": metadata}
        with pytest.raises(ExpressionError, match="without shell quotes"):
            checked(session, urn_of(odd), odd, {}, b"", None)
