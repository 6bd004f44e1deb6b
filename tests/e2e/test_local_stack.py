"""The stack that `make up` made, as its user meets it."""

import json
from typing import Any

import kubernetes
import pytest
import tritonclient.grpc as triton

from tests.e2e.asking import ANSWER, PROMPT, ask
from tests.e2e.stack_runs import TestStack


@pytest.fixture(scope="module")
def model(local: TestStack) -> dict[str, Any]:
    found: dict[str, Any] = local.outputs()["models"]["tiny-bloom"]
    return found


class TestTheModelIsServedThroughItsOwnAddress:
    def test_answers_word_for_word(self, model: dict[str, Any]) -> None:
        answer = ask(model)
        assert (answer.status_code, answer.json()) == (200, [[ANSWER]])

    def test_another_host_is_not_served(self, model: dict[str, Any]) -> None:
        assert ask({**model, "host": "nobody.llm.localhost"}).status_code == 404

    def test_answers_grpc(self, model: dict[str, Any]) -> None:
        address = str(model["url"]).removeprefix("http://")
        options = [("grpc.default_authority", model["host"])]
        with triton.InferenceServerClient(address, channel_args=options) as client:
            assert client.is_model_ready("fastertransformer")
            metadata = client.get_model_metadata("fastertransformer", as_json=True)
        assert {"input_ids", "input_lengths", "request_output_len"} <= {i["name"] for i in metadata["inputs"]}

    @pytest.mark.parametrize(
        ("body", "reason"),
        [
            ({"inputs": [{"input": "", "output_len": 3}]}, "input"),
            ({"inputs": [{"input": PROMPT, "output_len": -1}]}, "output_len"),
            ({"inputs": [{"input": PROMPT, "output_len": "many"}]}, "output_len"),
            ({"inputs": [{"output_len": 3}]}, "input"),
            ({}, "inputs"),
        ],
    )
    def test_a_wrong_request_is_refused_with_the_reason_and_the_next_is_served(
        self, model: dict[str, Any], body: dict[str, Any], reason: str
    ) -> None:
        import httpx

        url = f"{model['url']}/v1/models/fastertransformer:predict"
        answer = httpx.post(url, headers={"Host": model["host"]}, json=body, timeout=60)
        assert answer.status_code == 400
        assert reason in answer.text and "Traceback" not in answer.text
        assert ask(model).json() == [[ANSWER]]


class TestTheStackSaysWhatItMade:
    def test_url_host_and_verdict(self, model: dict[str, Any]) -> None:
        verdict = model["smokeTest"]
        assert verdict["verdict"] == "passed"
        assert verdict["answer"] == ANSWER
        assert float(verdict["seconds"]) > 0
        assert model["url"].startswith("http://") and model["host"].endswith(".llm.localhost")

    def test_a_second_up_has_nothing_to_do_and_says_reused(self, local: TestStack) -> None:
        ended = local.run("preview", "--expect-no-changes")
        assert ended.code == 0, ended.output
        assert "reused: it is in the store" in ended.output

    def test_refresh_finds_nothing_changed(self, local: TestStack) -> None:
        ended = local.run("refresh", "--yes", "--skip-preview", "--expect-no-changes")
        assert ended.code == 0, ended.output


class TestSecretsStaySecret:
    def test_in_the_state(self, local: TestStack, cluster: kubernetes.client.ApiClient) -> None:
        import base64

        api = kubernetes.client.CoreV1Api(cluster)
        state = local.export()
        secrets = [
            s for s in api.list_namespaced_secret("models").items if s.metadata.name in ("store-s3", "hub-token")
        ]
        assert len(secrets) == 2
        for secret in secrets:
            for encoded in secret.data.values():
                assert encoded not in state
                assert base64.b64decode(encoded).decode() not in state
        assert json.loads(state)["deployment"]["secrets_providers"]["type"] == "passphrase"

    def test_in_jobs_and_their_logs(self, cluster: kubernetes.client.ApiClient) -> None:
        import base64

        api = kubernetes.client.CoreV1Api(cluster)
        secret = api.read_namespaced_secret("store-s3", "models").data["AWS_SECRET_ACCESS_KEY"]
        value = base64.b64decode(secret).decode()
        jobs = kubernetes.client.BatchV1Api(cluster).list_namespaced_job("models").items
        assert len(jobs) >= 4
        assert value not in str(jobs)
        for pod in api.list_namespaced_pod("models", label_selector="batch.kubernetes.io/job-name").items:
            for container in [*(pod.spec.init_containers or []), *pod.spec.containers]:
                log = api.read_namespaced_pod_log(pod.metadata.name, "models", container=container.name)
                assert value not in log
