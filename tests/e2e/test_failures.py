"""What goes wrong stops where it went wrong, says so, and takes nothing down that served before."""

import os
import signal
import time
from collections.abc import Callable

import kubernetes
import pytest

from localcluster.paths import default_paths
from localcluster.pulumi_lock import release_stale_lock
from tests.e2e.asking import ANSWER, SteadyClient, ask
from tests.e2e.stack_runs import TestStack

Eventually = Callable[[Callable[[], bool], str, float], None]


def services(cluster: kubernetes.client.ApiClient, namespace: str) -> list[str]:
    api = kubernetes.client.CustomObjectsApi(cluster)
    listed = api.list_namespaced_custom_object("serving.kserve.io", "v1beta1", namespace, "inferenceservices")
    return [item["metadata"]["name"] for item in listed["items"]]


def jobs(cluster: kubernetes.client.ApiClient, namespace: str) -> dict[str, str]:
    """Name -> uid."""
    listed = kubernetes.client.BatchV1Api(cluster).list_namespaced_job(namespace).items
    return {job.metadata.name: job.metadata.uid for job in listed}


class TestAMistakeInTheStackFileIsNamedBeforeAnythingIsMade:
    @pytest.fixture(autouse=True)
    def restore(self, stack: TestStack) -> None:
        stack.config["models"]["tiny-bloom"]["source"] = {"id": "llm-serving/tiny-bloom"}

    def test_unknown_key(self, stack: TestStack) -> None:
        stack.model["recepie"] = {}
        ended = stack.run("preview")
        del stack.model["recepie"]
        assert ended.code != 0
        assert f"Pulumi.{stack.name}.yaml" in ended.output
        assert "llm-serving:models.tiny-bloom.recepie: unknown key" in ended.output
        assert "Traceback" not in ended.output

    @pytest.mark.parametrize(
        ("source", "reason"),
        [
            ({"id": "llm-serving/no-such-model"}, "llm-serving/no-such-model"),
            ({"id": "llm-serving/tiny-bloom", "revision": "no-such-revision"}, "no-such-revision"),
        ],
    )
    def test_a_model_or_revision_that_does_not_exist(
        self, stack: TestStack, source: dict[str, str], reason: str
    ) -> None:
        stack.model["source"] = source
        ended = stack.run("preview")
        assert ended.code != 0
        assert "models.tiny-bloom: " in ended.output and reason in ended.output
        assert "Traceback" not in ended.output

    def test_a_gated_model_with_a_wrong_token(self, stack: TestStack, monkeypatch: pytest.MonkeyPatch) -> None:
        stack.model["source"] = {"id": "llm-serving/tiny-bloom-gated"}
        environment = dict(stack.environment)
        stack.environment = {**environment, "HF_TOKEN": "hf_wrong"}
        ended = stack.run("preview")
        stack.environment = environment
        assert ended.code != 0
        assert "tiny-bloom-gated" in ended.output and "token" in ended.output
        assert "hf_wrong" not in ended.output and "Traceback" not in ended.output


class TestABuildThatFails:
    def test_stops_before_a_predictor_is_made_and_shows_the_jobs_last_lines(
        self, stack: TestStack, cluster: kubernetes.client.ApiClient
    ) -> None:
        stack.model["recipe"]["tensorParallelSize"] = 3
        ended = stack.up()
        assert ended.code != 0
        assert "does not divide" in ended.output or "divide" in ended.output
        assert services(cluster, stack.namespace) == []
        failed = jobs(cluster, stack.namespace)
        again = stack.up()
        assert again.code != 0
        convert = next(name for name in failed if "-convert-" in name)
        assert jobs(cluster, stack.namespace)[convert] != failed[convert], "the failed Job was not run again"
        stack.model["recipe"]["tensorParallelSize"] = 1


class TestAnUpThatIsKilled:
    def test_goes_on_where_it_was(
        self, stack: TestStack, cluster: kubernetes.client.ApiClient, eventually: Eventually, local: TestStack
    ) -> None:
        served = local.outputs()["models"]["tiny-bloom"]
        with SteadyClient(served) as client:
            process = stack.start("up", "--yes", "--skip-preview", "--suppress-progress")
            eventually(lambda: services(cluster, stack.namespace) != [], "an InferenceService is being made", 240)
            os.killpg(process.pid, signal.SIGKILL)
            process.communicate(timeout=30)
            time.sleep(1)
            release_stale_lock(default_paths().pulumi, stack.name)
            ended = stack.up()
            assert ended.code == 0, ended.output
        assert ask(stack.outputs()["models"]["tiny-bloom"]).json() == [[ANSWER]]
        assert client.asked > 10 and client.wrong == []

    def test_two_at_once_the_second_says_who_holds_the_lock(self, stack: TestStack, eventually: Eventually) -> None:
        stack.model["resources"]["transformer"]["memory"] = "900Mi"
        first = stack.start("up", "--yes", "--skip-preview", "--suppress-progress")
        locks = default_paths().pulumi / ".pulumi" / "locks"
        eventually(lambda: any(locks.glob(f"**/{stack.name}/*.json")), "the first holds the lock", 60)
        second = stack.up()
        output, _ = first.communicate(timeout=400)
        assert second.code != 0 and "locked" in second.output and str(first.pid) in second.output
        assert first.returncode == 0, output


class TestASmokeTestThatFails:
    def test_fails_the_up_and_leaves_what_served_and_runs_again(
        self, stack: TestStack, cluster: kubernetes.client.ApiClient
    ) -> None:
        before = stack.outputs()["models"]["tiny-bloom"]
        right = stack.model["smokeTest"]["expect"]
        stack.model["smokeTest"]["expect"] = "something else"
        with SteadyClient(before) as client:
            first = stack.up()
            assert first.code != 0
            assert "something else" in first.output
            failed = jobs(cluster, stack.namespace)
            second = stack.up()
            assert second.code != 0
            stack.model["smokeTest"]["expect"] = right
            third = stack.up()
            assert third.code == 0, third.output
        rerun = {name for name, uid in failed.items() if "-smoke-" in name}
        assert rerun
        assert client.asked > 10 and client.wrong == []


class TestAKilledJobIsDoneAgain:
    def test_by_kubernetes(
        self, stack: TestStack, cluster: kubernetes.client.ApiClient, eventually: Eventually
    ) -> None:
        stack.config["platform"]["stores"]["s3"]["url"] += "/again"
        process = stack.start("up", "--yes", "--skip-preview", "--suppress-progress")
        api = kubernetes.client.CoreV1Api(cluster)
        killed: list[str] = []

        def kill_a_running_convert() -> bool:
            for pod in api.list_namespaced_pod(stack.namespace, label_selector="batch.kubernetes.io/job-name").items:
                if "-convert-" in pod.metadata.name and pod.status.phase in ("Pending", "Running"):
                    api.delete_namespaced_pod(pod.metadata.name, stack.namespace, grace_period_seconds=0)
                    killed.append(pod.metadata.name)
                    return True
            return False

        eventually(kill_a_running_convert, "a convert pod to kill", 180)
        output, _ = process.communicate(timeout=400)
        assert process.returncode == 0, output
        assert killed
        assert ask(stack.outputs()["models"]["tiny-bloom"]).json() == [[ANSWER]]
