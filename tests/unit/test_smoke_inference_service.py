"""The smoke test waits for an InferenceService, against a real HTTP server that answers as the Kubernetes API does."""

import os
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from engine_jobs.smoke_test import ClusterAccess, HttpProbe, InferenceServiceTarget, SmokeTest, Verdict, run_smoke_test
from engine_jobs.smoke_test import inference_service as waiting
from tests.unit.smoke_servers import HttpEndpoint, Reply, http_endpoint, unused_port, write_kubeconfig

SERVICE = "/apis/serving.kserve.io/v1beta1/namespaces/models/inferenceservices/bloom"
DEPLOYMENTS = "/apis/apps/v1/namespaces/models/deployments"
PODS = "/api/v1/namespaces/models/pods"
HOST = "bloom-models.llm.localhost"
REVISION = {"llm-serving/revision": "new"}
Replies = dict[str, Reply | list[Reply]]


def condition(kind: str, status: str, reason: str = "", message: str = "") -> dict[str, str]:
    return {"type": kind, "status": status, "reason": reason, "message": message}


def service(ready: bool = True, **status: Any) -> Reply:
    conditions = [condition("PredictorReady", "True"), condition("Ready", "True")]
    if not ready:
        conditions = [
            condition("IngressReady", "False", "Predictor ingress not created"),
            condition(
                "PredictorReady", "False", "MinimumReplicasUnavailable", "Deployment has no minimum availability."
            ),
            condition("Ready", "False", "MinimumReplicasUnavailable"),
            condition("Stopped", "False"),
        ]
    components = {
        "predictor": {"url": f"http://bloom-predictor-{HOST.removeprefix('bloom-')}"},
        "transformer": {},
    }
    body = {"status": {"url": f"http://{HOST}", "conditions": conditions, "components": components} | status}
    return Reply(body={"metadata": {"name": "bloom"}} | body)


def deployment(*, revision: str = "new", replicas: int = 1, **changes: int) -> dict[str, Any]:
    status = {"observedGeneration": 2, "replicas": replicas, "updatedReplicas": replicas, "readyReplicas": replicas}
    labels = {"llm-serving/revision": revision}
    return {
        "metadata": {"name": f"bloom-predictor-{revision}", "generation": 2},
        "spec": {
            "replicas": replicas,
            "selector": {"matchLabels": {}},
            "template": {"metadata": {"labels": labels}, "spec": {"containers": [{"name": "c"}]}},
        },
        "status": status | changes,
    }


def listing(*items: Mapping[str, Any]) -> Reply:
    return Reply(body={"items": list(items)})


def pod(*containers: Mapping[str, Any], init: tuple[Mapping[str, Any], ...] = (), **status: Any) -> dict[str, Any]:
    filled = [{"image": "i", "imageID": "", "ready": False, "restartCount": 0} | dict(each) for each in containers]
    first = [{"image": "i", "imageID": "", "ready": False, "restartCount": 0} | dict(each) for each in init]
    return {
        "metadata": {"name": "bloom-predictor-1"},
        "status": {"containerStatuses": filled, "initContainerStatuses": first} | status,
    }


class Cluster:
    """An API server with these answers beside a gateway that answers `/v2/health/live` for any host."""

    def __init__(self, tmp_path: Path, api: HttpEndpoint, gateway: HttpEndpoint) -> None:
        self.api, self.gateway = api, gateway
        self.access = ClusterAccess(kubeconfig=write_kubeconfig(tmp_path / "kubeconfig", api.url), context="test")
        self.lines: list[str] = []

    def ask(self, *, component: Any = None, deadline: float = 20, labels: Mapping[str, str] | None = None) -> Verdict:
        target = InferenceServiceTarget(
            name="bloom", namespace="models", gateway=self.gateway.url, pod_labels=labels or {}
        )
        probe = HttpProbe(name="live", path="/v2/health/live", component=component)
        test = SmokeTest(name="bloom", target=target, probes=(probe,), deadline_s=deadline, attempts=2)
        return run_smoke_test(test, cluster=self.access, report=self.lines.append)


@pytest.fixture
def replies() -> Replies:
    return {SERVICE: service(), DEPLOYMENTS: listing(deployment()), PODS: listing()}


@pytest.fixture
def cluster(tmp_path: Path, replies: Replies) -> Iterator[Cluster]:
    """What a test puts into `replies` before or during its question is what the API server answers."""
    with http_endpoint({}) as api, http_endpoint({"/v2/health/live": Reply()}) as gateway:
        made = Cluster(tmp_path, api, gateway)

        class Live(dict[str, list[Reply]]):
            def get(self, path: str, default: Any = None) -> Any:
                each = replies.get(path)
                return default if each is None else each if isinstance(each, list) else [each]

        api.replies = Live()
        yield made


def failure(verdict: Verdict) -> str:
    assert not verdict.ok
    assert verdict.probes == ()
    assert verdict.error is not None
    return verdict.error


class TestAReadyServiceIsAskedUnderItsHost:
    def test_through_the_gateway(self, cluster: Cluster) -> None:
        verdict = cluster.ask()
        assert verdict.ok, verdict.text()
        assert [each.host for each in cluster.gateway.requests] == [HOST]
        assert verdict.url == f"http://{HOST}"
        assert verdict.host == HOST
        assert verdict.ready_seconds is not None

    def test_a_component_under_its_own(self, cluster: Cluster) -> None:
        assert cluster.ask(component="predictor").ok
        assert [each.host for each in cluster.gateway.requests] == [f"bloom-predictor-{HOST.removeprefix('bloom-')}"]

    def test_a_component_that_it_has_not(self, cluster: Cluster) -> None:
        error = failure(cluster.ask(component="transformer"))
        assert "no URL for the transformer (it has: predictor)" in error

    def test_a_path_in_its_url_is_kept(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = service(url="http://llm.localhost/serving/models/bloom")
        cluster.gateway.replies["/serving/models/bloom/v2/health/live"] = [Reply()]
        assert cluster.ask().ok
        assert cluster.gateway.requests[0].host == "llm.localhost"

    def test_only_its_own_deployments_are_read(self, cluster: Cluster) -> None:
        cluster.ask()
        assert any(
            each.path == f"{DEPLOYMENTS}?labelSelector=serving.kserve.io%2Finferenceservice%3Dbloom"
            for each in cluster.api.requests
        )


class TestItWaits:
    def test_until_it_is_ready(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = [Reply(body={"metadata": {}}), service(ready=False), service(url=None), service()]
        assert cluster.ask().ok
        assert cluster.lines == [
            "waiting for bloom: it has no conditions yet: does the KServe controller run?",
            "waiting for bloom: PredictorReady is False: MinimumReplicasUnavailable: Deployment has no minimum availability.",
            "waiting for bloom: it is Ready but has no .status.url yet",
        ]

    @pytest.mark.parametrize(
        ("rolling", "told"),
        [
            (deployment(observedGeneration=1), "its change is still to be taken up"),
            (deployment(replicas=2, updatedReplicas=1), "1 of 2 pods are new, 1 are old, 2 are ready"),
            (deployment(readyReplicas=0), "1 of 1 pods are new, 0 are old, 0 are ready"),
            (deployment(replicas=1) | {"status": {"observedGeneration": 2}}, "0 of 1 pods are new"),
        ],
    )
    def test_until_its_deployments_have_rolled_out(
        self, cluster: Cluster, replies: Replies, rolling: dict[str, Any], told: str
    ) -> None:
        replies[DEPLOYMENTS] = [listing(rolling), listing(deployment())]
        assert cluster.ask().ok
        assert told in cluster.lines[0]

    def test_while_an_old_pod_is_left(self, cluster: Cluster, replies: Replies) -> None:
        old_left = deployment() | {
            "status": {"observedGeneration": 2, "replicas": 2, "updatedReplicas": 1, "readyReplicas": 2}
        }
        replies[DEPLOYMENTS] = [listing(old_left), listing(deployment())]
        assert cluster.ask().ok
        assert "1 are old" in cluster.lines[0]

    def test_until_the_pods_are_those_of_this_revision(self, cluster: Cluster, replies: Replies) -> None:
        replies[DEPLOYMENTS] = [listing(), listing(deployment(revision="old")), listing(deployment())]
        assert cluster.ask(labels=REVISION).ok
        assert cluster.lines == [
            "waiting for bloom: it has no Deployment with the label llm-serving/revision=new yet",
            "waiting for bloom: Deployment bloom-predictor-old still lacks the label llm-serving/revision=new",
        ]

    def test_but_not_for_an_old_revision_that_is_scaled_to_nothing(self, cluster: Cluster, replies: Replies) -> None:
        replies[DEPLOYMENTS] = listing(deployment(revision="old", replicas=0), deployment())
        assert cluster.ask(labels=REVISION).ok
        assert cluster.lines == []

    def test_while_the_api_server_is_away_for_a_moment(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = [Reply(cut=True), Reply(503, {}), Reply(429, {}), service()]
        verdict = cluster.ask()
        assert verdict.ok, verdict.text()


class TestOneThatIsNeverReady:
    def test_what_is_not_ready_is_shown_with_reasons_and_pods(self, cluster: Cluster, replies: Replies) -> None:
        failed = {"reason": "ModelLoadFailed", "message": "no model.py", "location": "bloom-predictor-1"}
        replies[SERVICE] = service(ready=False, modelStatus={"lastFailureInfo": failed})
        initializer = {"name": "storage-initializer", "state": {"terminated": {"exitCode": 1, "reason": "Error"}}}
        server = {
            "name": "kserve-container",
            "state": {"waiting": {"reason": "CrashLoopBackOff", "message": "back-off 10s"}},
            "lastState": {"terminated": {"exitCode": 137, "reason": "OOMKilled"}},
        }
        replies[PODS] = listing(pod(server, init=(initializer,)))
        started = time.monotonic()
        error = failure(cluster.ask(deadline=1.5))
        assert time.monotonic() - started < 4
        for part in (
            "InferenceService bloom in namespace models is not ready after",
            "PredictorReady is False: MinimumReplicasUnavailable: Deployment has no minimum availability.",
            "IngressReady is False: Predictor ingress not created",
            "model failure at bloom-predictor-1: ModelLoadFailed: no model.py",
            "pod bloom-predictor-1, container storage-initializer ended with exit code 1: Error",
            "pod bloom-predictor-1, container kserve-container waits: CrashLoopBackOff: back-off 10s",
            "pod bloom-predictor-1, container kserve-container ended with exit code 137: OOMKilled",
            "kubectl --namespace models describe pods --selector serving.kserve.io/inferenceservice=bloom",
        ):
            assert part in error
        assert "Stopped" not in error
        assert cluster.gateway.requests == []

    def test_a_pod_without_a_node(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = service(ready=False)
        unscheduled = condition("PodScheduled", "False", "Unschedulable", "0/1 nodes: Insufficient nvidia.com/gpu.")
        replies[PODS] = listing(pod(conditions=[unscheduled]))
        error = failure(cluster.ask(deadline=1))
        assert "pod bloom-predictor-1 is not scheduled: Unschedulable: 0/1 nodes: Insufficient nvidia.com/gpu." in error

    def test_a_server_that_runs_and_is_not_ready(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = service(ready=False)
        replies[PODS] = listing(pod({"name": "kserve-container", "state": {"running": {}}}))
        assert "container kserve-container runs and is not ready" in failure(cluster.ask(deadline=1))

    def test_a_route_that_no_gateway_takes(self, cluster: Cluster, replies: Replies) -> None:
        route = condition("IngressReady", "False", "ParentStatusNotAvailable", "Predictor HttpRouteNotReady")
        replies[SERVICE] = service(conditions=[route, condition("PredictorReady", "True"), condition("Ready", "False")])
        error = failure(cluster.ask(deadline=1))
        assert "IngressReady is False: ParentStatusNotAvailable: Predictor HttpRouteNotReady" in error
        assert "its pods are well: does the gateway's controller run" in error
        assert error.endswith("kubectl --namespace models describe httproutes")

    def test_an_old_pod_that_is_going_is_not_blamed(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = service(ready=False)
        going = pod({"name": "kserve-container", "state": {"running": {}}})
        going["metadata"]["deletionTimestamp"] = "2026-01-01T00:00:00Z"
        replies[PODS] = listing(going)
        assert "kserve-container" not in failure(cluster.ask(deadline=1))

    def test_a_stopped_one(self, cluster: Cluster, replies: Replies) -> None:
        conditions = [condition("Ready", "False", "Stopped"), condition("Stopped", "True", "Stopped")]
        replies[SERVICE] = service(conditions=conditions)
        assert "it is stopped (annotation serving.kserve.io/stop)" in failure(cluster.ask(deadline=1))

    def test_one_that_cannot_be_served_as_specified_is_not_waited_for(
        self, cluster: Cluster, replies: Replies, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(waiting, "INVALID_FOR_S", 0.5)
        info = {"reason": "RuntimeNotRecognized", "message": "Waiting for runtime tritonserver-ft to become available"}
        status = {"transitionStatus": "InvalidSpec", "lastFailureInfo": info}
        replies[SERVICE] = service(ready=False, modelStatus=status)
        started = time.monotonic()
        error = failure(cluster.ask(deadline=60))
        assert time.monotonic() - started < 10
        assert "cannot be served as it is specified" in error
        assert "RuntimeNotRecognized: Waiting for runtime tritonserver-ft" in error

    def test_pods_that_cannot_be_listed_do_not_hide_the_rest(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = service(ready=False)
        replies[PODS] = Reply(403, {})
        error = failure(cluster.ask(deadline=1))
        assert "PredictorReady is False" in error
        assert "its pods cannot be listed" in error


class TestAMistakeIsNamed:
    def test_no_such_service(self, cluster: Cluster, replies: Replies) -> None:
        replies[SERVICE] = Reply(404, {})
        assert "there is no InferenceService bloom in namespace models" in failure(cluster.ask())

    @pytest.mark.parametrize(("path", "status"), [(SERVICE, 401), (SERVICE, 403), (DEPLOYMENTS, 403)])
    def test_an_account_that_may_not_look(self, cluster: Cluster, replies: Replies, path: str, status: int) -> None:
        replies[path] = Reply(status, {})
        error = failure(cluster.ask())
        assert f"not allowed to read the InferenceService bloom in namespace models ({status}" in error
        assert "inferenceservices (serving.kserve.io), deployments (apps) and pods" in error

    def test_an_api_server_that_is_not_there(self, cluster: Cluster, tmp_path: Path) -> None:
        address = f"http://127.0.0.1:{unused_port()}"
        cluster.access = ClusterAccess(kubeconfig=write_kubeconfig(tmp_path / "other", address))
        error = failure(cluster.ask(deadline=2))
        assert f"the API server {address} does not answer" in error
        assert "Is the cluster up, and is this its kubeconfig?" in error

    @pytest.mark.parametrize("content", [None, "", "{]", "a: 1"])
    def test_a_kubeconfig_that_is_none(self, cluster: Cluster, tmp_path: Path, content: str | None) -> None:
        path = tmp_path / "bad"
        if content is not None:
            path.write_text(content)
        cluster.access = ClusterAccess(kubeconfig=str(path))
        error = failure(cluster.ask())
        assert "no cluster to ask" in error
        assert str(path) in error
        assert "--kubeconfig" in error

    def test_a_context_that_is_not_there(self, cluster: Cluster) -> None:
        cluster.access = ClusterAccess(kubeconfig=cluster.access.kubeconfig, context="other")
        assert "context other" in failure(cluster.ask())


class TestTheJobLeavesItsVerdict:
    CONFIG_MAPS = "/api/v1/namespaces/models/configmaps"

    def run(self, cluster: Cluster, *more: str, uid: str | None = "u-1") -> "subprocess.CompletedProcess[str]":
        target = InferenceServiceTarget(name="bloom", namespace="models", gateway=cluster.gateway.url)
        question = HttpProbe(name="question", path="/question", answer="", expect_text="42")
        test = SmokeTest(name="bloom", target=target, probes=(question,), deadline_s=20)
        command = [sys.executable, "-m", "engine_jobs.smoke_test", "--spec-json", test.to_json(), *more]
        access = ["--kubeconfig", str(cluster.access.kubeconfig), "--verdict-config-map", "bloom-smoke-1"]
        environment = {key: value for key, value in os.environ.items() if key != "JOB_UID"}
        environment |= {"JOB_UID": uid} if uid else {}
        return subprocess.run([*command, *access], capture_output=True, text=True, env=environment, check=False)

    def test_in_a_config_map_that_goes_with_it(self, cluster: Cluster, replies: Replies) -> None:
        replies[self.CONFIG_MAPS] = Reply(201, {})
        cluster.gateway.replies["/question"] = [Reply(body="42")]
        done = self.run(cluster)
        assert done.returncode == 0, done.stderr
        written = cluster.api.requests[-1]
        assert (written.method, written.path) == ("POST", self.CONFIG_MAPS)
        owner = {"apiVersion": "batch/v1", "kind": "Job", "name": "bloom-smoke-1", "uid": "u-1"}
        assert written.body["metadata"]["name"] == "bloom-smoke-1"
        assert written.body["metadata"]["ownerReferences"] == [owner]
        data = written.body["data"]
        assert data["verdict"] == "passed"
        assert data["answer"] == "42"
        assert f"curl -sS -H 'Host: {HOST}'" in data["request"]
        assert float(data["seconds"]) < 5
        assert "error" not in data

    def test_a_failed_one_too_in_place_of_an_older(self, cluster: Cluster, replies: Replies) -> None:
        replies[self.CONFIG_MAPS] = Reply(409, {})
        replies[f"{self.CONFIG_MAPS}/bloom-smoke-1"] = Reply(body={})
        cluster.gateway.replies["/question"] = [Reply(body="41")]
        done = self.run(cluster, uid=None)
        assert done.returncode == 1
        written = cluster.api.requests[-1]
        assert (written.method, written.path) == ("PUT", f"{self.CONFIG_MAPS}/bloom-smoke-1")
        assert "ownerReferences" not in written.body["metadata"]
        assert written.body["data"]["verdict"] == "failed"
        assert "wrong answer, from character 1 on" in written.body["data"]["error"]

    def test_an_account_that_may_not_write_it(self, cluster: Cluster, replies: Replies) -> None:
        replies[self.CONFIG_MAPS] = Reply(403, {})
        cluster.gateway.replies["/question"] = [Reply(body="42")]
        done = self.run(cluster)
        assert done.returncode == 1
        assert "passed" in done.stdout
        assert "error: the verdict cannot be written to ConfigMap bloom-smoke-1 in namespace models: 403" in done.stderr
        assert "Traceback" not in done.stderr
