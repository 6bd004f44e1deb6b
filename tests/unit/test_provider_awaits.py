"""What a status says about being ready. The statuses are as Kubernetes 1.34 reports them."""

import threading
from collections.abc import Callable
from typing import Any

import pytest

from localcluster.pulumi_resource_kubernetes.await_infrastructure import (
    claim_progress,
    endpoint_counts,
    volume_progress,
)
from localcluster.pulumi_resource_kubernetes.await_job import job_progress
from localcluster.pulumi_resource_kubernetes.await_workloads import (
    daemon_set_progress,
    deployment_progress,
    pod_progress,
    stateful_set_progress,
)
from localcluster.pulumi_resource_kubernetes.errors import ApiError, NotReadyError
from localcluster.pulumi_resource_kubernetes.pods import container_failures, pod_trouble, selector_of
from localcluster.pulumi_resource_kubernetes.progress import Patience, Progress, timeout_of, wait_until
from localcluster.pulumi_resource_kubernetes.values import Object


def _condition(kind: str, status: str = "True", **more: Any) -> Object:
    return {"type": kind, "status": status, **more}


def _workload(kind: str, status: Object, *, generation: int = 2, replicas: int = 2) -> Object:
    return {
        "kind": kind,
        "metadata": {"name": "web", "generation": generation},
        "spec": {"replicas": replicas},
        "status": {"observedGeneration": generation, **status},
    }


class TestJob:
    def test_is_ready_only_when_complete(self) -> None:
        running = {"kind": "Job", "metadata": {"name": "j"}, "status": {"startTime": "t", "active": 1}}
        assert not job_progress(running).ready
        assert "Active: 1" in job_progress(running).message
        done = {
            **running,
            "status": {"startTime": "t", "conditions": [_condition("SuccessCriteriaMet"), _condition("Complete")]},
        }
        assert job_progress(done).ready

    def test_fails_for_any_reason_that_kubernetes_gives(self) -> None:
        for reason in ("BackoffLimitExceeded", "DeadlineExceeded", "PodFailurePolicy"):
            failed = {
                "kind": "Job",
                "metadata": {"name": "j"},
                "status": {"conditions": [_condition("Failed", reason=reason)]},
            }
            assert job_progress(failed).failed
            assert reason in job_progress(failed).reasons[0]

    def test_does_not_fail_while_its_target_is_only_expected(self) -> None:
        target = {
            "kind": "Job",
            "metadata": {"name": "j"},
            "status": {"startTime": "t", "conditions": [_condition("FailureTarget")]},
        }
        assert not job_progress(target).failed


class TestDeployment:
    ROLLED_OUT = (
        {"type": "Available", "status": "True"},
        {"type": "Progressing", "status": "True", "reason": "NewReplicaSetAvailable"},
    )

    def _with(self, **status: Any) -> Object:
        counts = {"replicas": 2, "updatedReplicas": 2, "readyReplicas": 2, "availableReplicas": 2}
        return _workload("Deployment", {**counts, "conditions": list(self.ROLLED_OUT), **status})

    def test_is_ready_when_the_new_pods_are_there_and_the_old_ones_gone(self) -> None:
        assert deployment_progress(self._with()).ready

    @pytest.mark.parametrize(
        "status",
        [{"replicas": 3}, {"updatedReplicas": 1}, {"readyReplicas": 1}, {"observedGeneration": 1}, {"conditions": []}],
    )
    def test_is_not_ready_before(self, status: Object) -> None:
        assert not deployment_progress(self._with(**status)).ready

    def test_says_why_it_does_not_get_on(self) -> None:
        stuck = _condition("Progressing", "False", reason="ProgressDeadlineExceeded", message="timed out")
        assert deployment_progress(self._with(conditions=[stuck])).reasons == ("[ProgressDeadlineExceeded] timed out",)


class TestStatefulSet:
    def test_is_ready_when_every_replica_is_and_has_the_new_revision(self) -> None:
        status = {
            "replicas": 2,
            "readyReplicas": 2,
            "currentReplicas": 2,
            "currentRevision": "b",
            "updateRevision": "b",
        }
        assert stateful_set_progress(_workload("StatefulSet", status)).ready
        assert not stateful_set_progress(_workload("StatefulSet", {**status, "currentRevision": "a"})).ready
        assert not stateful_set_progress(_workload("StatefulSet", {**status, "readyReplicas": 1})).ready


class TestDaemonSet:
    def test_is_ready_when_each_node_has_its_pod(self) -> None:
        status = {"desiredNumberScheduled": 1, "numberAvailable": 1, "updatedNumberScheduled": 1}
        assert daemon_set_progress(_workload("DaemonSet", status)).ready
        assert not daemon_set_progress(_workload("DaemonSet", {**status, "numberAvailable": 0})).ready
        assert not daemon_set_progress(_workload("DaemonSet", {})).ready


class TestPod:
    FAILED: Callable[[], Object] = staticmethod(
        lambda: {
            "metadata": {"name": "p"},
            "status": {
                "phase": "Failed",
                "initContainerStatuses": [
                    {
                        "name": "fetch",
                        "restartCount": 0,
                        "state": {"terminated": {"exitCode": 1, "reason": "Error", "message": "no disk"}},
                    }
                ],
                "containerStatuses": [
                    {"name": "main", "restartCount": 0, "state": {"waiting": {"reason": "PodInitializing"}}}
                ],
            },
        }
    )

    def test_is_ready_when_ready_or_ended_well(self) -> None:
        assert pod_progress(
            {"metadata": {"name": "p"}, "status": {"phase": "Running", "conditions": [_condition("Ready")]}}
        ).ready
        assert pod_progress({"metadata": {"name": "p"}, "status": {"phase": "Succeeded"}}).ready

    def test_that_failed_in_an_init_container_says_so(self) -> None:
        (failure,) = container_failures(self.FAILED())
        assert (failure.container, failure.exit_code, failure.previous) == ("fetch", 1, False)
        assert "no disk" in failure.describe("")
        assert "from the log" in failure.describe("from the log") and "no disk" not in failure.describe("from the log")
        assert pod_progress(self.FAILED()).failed

    def test_that_only_starts_has_no_trouble(self) -> None:
        assert pod_trouble(self.FAILED()) == []

    def test_that_runs_again_keeps_the_run_before_in_mind(self) -> None:
        last = {"terminated": {"exitCode": 137, "reason": "OOMKilled"}}
        status = {
            "name": "main",
            "restartCount": 3,
            "lastState": last,
            "state": {"waiting": {"reason": "CrashLoopBackOff"}},
        }
        pod = {"metadata": {"name": "p"}, "status": {"containerStatuses": [status]}}
        (failure,) = container_failures(pod)
        assert failure.previous and failure.restart == 2 and "OOMKilled" in failure.describe("")
        assert "CrashLoopBackOff" in pod_trouble(pod)[0]

    def test_is_found_by_any_selector(self) -> None:
        expressions = [{"key": "a", "operator": "In", "values": ["b", "c"]}, {"key": "d", "operator": "DoesNotExist"}]
        selector = {"matchLabels": {"x": "y"}, "matchExpressions": expressions}
        assert selector_of({"spec": {"selector": selector}}) == "x=y,a in (b,c),!d"
        assert selector_of({"spec": {"selector": {"app": "rc"}}}) == "app=rc"


class TestVolumes:
    def test_are_ready_when_bound_or_to_be_had(self) -> None:
        phases = {
            phase: volume_progress({"metadata": {}, "status": {"phase": phase}}).ready
            for phase in ("Available", "Bound", "Failed")
        }
        assert phases == {"Available": True, "Bound": True, "Failed": False}

    def test_are_claimed_when_bound_or_waiting_for_a_consumer(self) -> None:
        pending = {"metadata": {}, "status": {"phase": "Pending"}}
        assert not claim_progress(pending, waits_for_consumer=False).ready
        assert claim_progress(pending, waits_for_consumer=True).ready
        assert claim_progress({"metadata": {}, "status": {"phase": "Bound"}}, waits_for_consumer=False).ready

    def test_endpoints_count_as_ready_unless_said_otherwise(self) -> None:
        slices: list[Object] = [
            {"endpoints": [{"conditions": {"ready": True}}, {"conditions": {"ready": False}}, {}]},
            {"endpoints": None},
        ]
        assert endpoint_counts(slices) == (2, 1)


class _Objects:
    """A cluster of which a test needs one answer."""

    def __init__(self, answer: Callable[[], Object]) -> None:
        self.get = lambda _obj: answer()


class _After:
    def __init__(self, looks: int) -> None:
        self.left = looks

    def look(self, live: Object) -> Progress:
        self.left -= 1
        return Progress(ready=self.left <= 0, message="not yet", reasons=("because",))


OBJECT: Object = {"kind": "Job", "metadata": {"name": "x"}}


class TestWaiting:
    def _patience(self, timeout_s: float, cancelled: threading.Event | None = None) -> Patience:
        return Patience(timeout_s=timeout_s, cancelled=cancelled or threading.Event(), report=lambda _message: None)

    def test_ends_with_the_object_as_it_is_then(self) -> None:
        later = {**OBJECT, "status": {}}
        cluster: Any = _Objects(lambda: later)
        assert wait_until(_After(2), OBJECT, cluster, self._patience(5)) is later

    def test_ends_with_the_time_and_says_what_was_seen_last(self) -> None:
        cluster: Any = _Objects(lambda: OBJECT)
        with pytest.raises(NotReadyError, match=r"Job x wasn't ready within 0\.3 s") as caught:
            wait_until(_After(99), OBJECT, cluster, self._patience(0.3))
        assert caught.value.reasons == ("because", "last seen: not yet")

    def test_ends_when_the_object_is_deleted(self) -> None:
        def gone() -> Object:
            raise ApiError(404, "NotFound", "")

        cluster: Any = _Objects(gone)
        with pytest.raises(NotReadyError, match="was deleted while"):
            wait_until(_After(99), OBJECT, cluster, self._patience(5))

    def test_survives_an_apiserver_that_is_away_for_a_moment(self) -> None:
        answers = iter([ApiError(503, "ServiceUnavailable", ""), None])

        def flaky() -> Object:
            if (error := next(answers)) is not None:
                raise error
            return OBJECT

        cluster: Any = _Objects(flaky)
        assert wait_until(_After(3), OBJECT, cluster, self._patience(5)) is OBJECT

    def test_takes_as_long_as_the_resource_then_its_annotation_says(self) -> None:
        annotated = {"metadata": {"annotations": {"pulumi.com/timeoutSeconds": "90"}}}
        assert timeout_of(annotated, 7200.0) == 7200.0
        assert timeout_of(annotated, 0.0) == 90.0
        assert timeout_of({"metadata": {"annotations": {"pulumi.com/timeoutSeconds": "soon"}}}, 0.0) == 600.0
