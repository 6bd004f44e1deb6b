"""A smoke test is data: it goes through JSON unchanged, refuses what it does not know, and is named by its content."""

import dataclasses
import subprocess
import sys

import pytest

from engine_jobs.errors import UserError
from engine_jobs.smoke_test import (
    ExpectedOutput,
    GrpcProbe,
    HttpProbe,
    InferenceServiceTarget,
    SmokeTest,
    Tensor,
    UrlTarget,
    content_key,
    v2_probes,
)
from engine_jobs.smoke_test.decode import Json

QUESTION = HttpProbe(
    name="question",
    path="/v1/models/fastertransformer:predict",
    method="POST",
    body={"inputs": [{"input": "Kubernetes ist für …", "output_len": 18, "flags": [True, None, 0.5]}]},
    answer="/0/0",
    expect_text="the answer",
)
IDS = Tensor(name="input_ids", datatype="UINT32", shape=(1, 3), data=(1, 2, 3))
INFERENCE = GrpcProbe(
    name="v2 gRPC",
    model="fastertransformer",
    inputs=(IDS, Tensor(name="text", datatype="BYTES", shape=(1,), data=("hello",))),
    expect_output=ExpectedOutput(name="output_ids", prefix=(1, 2, 3)),
    component="predictor",
)
TEST = SmokeTest(
    name="bloom",
    target=InferenceServiceTarget(
        name="bloom", namespace="models", gateway="http://10.0.0.1:8888", pod_labels={"llm-serving/revision": "abc"}
    ),
    probes=(*v2_probes("fastertransformer"), QUESTION, INFERENCE),
    subject="0123abcd",
    deadline_s=60,
)


def changed(**changes: Json) -> dict[str, Json]:
    return TEST.to_dict() | changes


class TestRoundTrip:
    def test_every_field_survives(self) -> None:
        assert SmokeTest.from_json(TEST.to_json()) == TEST

    def test_a_url_target_survives(self) -> None:
        test = SmokeTest(name="x", target=UrlTarget(url="https://a.example", host="b"), probes=v2_probes("m"))
        assert SmokeTest.from_dict(test.to_dict()) == test

    def test_what_has_a_default_may_be_left_out(self) -> None:
        probe: Json = {"kind": "http", "name": "q", "path": "/"}
        document: Json = {"name": "x", "target": {"kind": "url", "url": "http://a"}, "probes": [probe]}
        expected = SmokeTest(name="x", target=UrlTarget(url="http://a"), probes=(HttpProbe(name="q", path="/"),))
        assert SmokeTest.from_dict(document) == expected

    def test_text_is_ascii_so_any_locale_passes_it_to_a_job(self) -> None:
        assert TEST.to_json().isascii()


class TestStrictness:
    @pytest.mark.parametrize(
        ("document", "message"),
        [
            (changed(retries=3), "spec: unknown key 'retries'; the keys are name, target, probes"),
            ({"name": "x", "probes": []}, "spec: the key 'target' is missing"),
            (changed(name=3), "spec.name: expected str, got 3"),
            (changed(attempts=True), "spec.attempts: expected int, got True"),
            (changed(attempts=1.5), "spec.attempts: expected int, got 1.5"),
            (changed(deadline_s="60"), "spec.deadline_s: expected float, got '60'"),
            (changed(deadline_s=float("nan")), "spec.deadline_s: expected a finite number"),
            (changed(probes={}), "spec.probes: expected a list, got {}"),
            (changed(probes=["x"]), "spec.probes[0]: the key 'kind' must be one of 'http', 'grpc'"),
            (
                changed(probes=[{"kind": "tcp"}]),
                "spec.probes[0]: the key 'kind' must be one of 'http', 'grpc', got 'tcp'",
            ),
            (changed(probes=[{"kind": "http", "name": "q", "path": "/", "method": "PUT"}]), "spec.probes[0].method"),
            (changed(probes=[{"kind": "http", "name": "q", "path": "/", "expect": "x"}]), "unknown key 'expect'"),
            (changed(target={"kind": "url", "url": "http://a", "port": 1}), "spec.target: unknown key 'port'"),
            (
                changed(target={"kind": "inference-service", "name": "a", "namespace": "b", "pod_labels": {"a": 1}}),
                "spec.target.pod_labels.a: expected str, got 1",
            ),
            ([], "spec: expected an object with the fields of SmokeTest, got []"),
        ],
    )
    def test_the_message_names_the_place(self, document: Json, message: str) -> None:
        with pytest.raises(UserError) as caught:
            SmokeTest.from_dict(document, "spec")
        assert message in str(caught.value)

    def test_text_that_is_no_json(self) -> None:
        with pytest.raises(UserError, match="--spec-json: not JSON"):
            SmokeTest.from_json("{", "--spec-json")

    def test_a_bad_datatype_is_named(self) -> None:
        tensor: Json = {"name": "t", "datatype": "INT7", "shape": [1], "data": [1]}
        probe: Json = {"kind": "grpc", "name": "g", "model": "m", "inputs": [tensor]}
        with pytest.raises(UserError, match=r"probes\[0\]\.inputs\[0\]\.datatype: expected one of 'BOOL'"):
            SmokeTest.from_dict(changed(probes=[probe]))


class TestNonsenseIsRefused:
    def test_no_probe_would_pass_for_nothing(self) -> None:
        with pytest.raises(UserError, match="no probe"):
            dataclasses.replace(TEST, probes=())

    @pytest.mark.parametrize("field", ["deadline_s", "request_timeout_s", "attempts"])
    def test_bounds_are_above_zero(self, field: str) -> None:
        with pytest.raises(UserError, match=f"{field} must be above 0 and finite"):
            SmokeTest.from_dict(changed(**{field: 0}))

    @pytest.mark.parametrize(
        "gateway", ["127.0.0.1:8888", "ftp://a", "http://", "http://u:p@a", "http://a?x=1", "http://[::1", "http://a:x"]
    )
    def test_a_gateway_is_a_url(self, gateway: str) -> None:
        with pytest.raises(UserError, match="must look like http://HOST:PORT"):
            InferenceServiceTarget(name="a", namespace="b", gateway=gateway)

    @pytest.mark.parametrize("host", ["ü.example", "a b", "a\r\nX: y", "", "http://a"])
    def test_a_host_is_a_name(self, host: str) -> None:
        with pytest.raises(UserError, match="is no host name"):
            UrlTarget(url="http://a", host=host)
        with pytest.raises(UserError, match="is no host name"):
            GrpcProbe(name="g", model="m", authority=host)

    @pytest.mark.parametrize("name", ["a/b", "..", "", "A", "-a", "a" * 64])
    def test_a_service_has_a_kubernetes_name(self, name: str) -> None:
        with pytest.raises(UserError, match="is no Kubernetes name"):
            InferenceServiceTarget(name=name, namespace="b")
        with pytest.raises(UserError, match="is no Kubernetes name"):
            InferenceServiceTarget(name="a", namespace=name)

    def test_an_expected_text_needs_a_place_to_look(self) -> None:
        with pytest.raises(UserError, match="needs `answer`"):
            HttpProbe(name="q", path="/", expect_text="x")

    def test_an_expected_output_needs_an_inference(self) -> None:
        with pytest.raises(UserError, match="needs `inputs`"):
            GrpcProbe(name="g", model="m", expect_output=ExpectedOutput(name="OUT"))

    def test_a_tensor_has_as_many_values_as_its_shape(self) -> None:
        with pytest.raises(UserError, match="shape 1x4 needs 4 values, got 3"):
            dataclasses.replace(IDS, shape=(1, 4))

    def test_a_component_needs_an_inference_service(self) -> None:
        with pytest.raises(UserError, match="`component` needs an InferenceService"):
            SmokeTest(name="x", target=UrlTarget(url="http://a"), probes=(INFERENCE,))

    @pytest.mark.parametrize("address", ["host", "http://host:1", "host:", "host:port"])
    def test_an_address_is_host_and_port(self, address: str) -> None:
        with pytest.raises(UserError, match="`address` is host:port"):
            GrpcProbe(name="g", model="m", address=address)


class TestContentKey:
    def test_equal_tests_have_equal_keys(self) -> None:
        assert content_key(SmokeTest.from_json(TEST.to_json())) == content_key(TEST)
        assert len(content_key(TEST)) == 64

    @pytest.mark.parametrize(
        "other",
        [
            dataclasses.replace(TEST, subject="another artifact"),
            dataclasses.replace(TEST, probes=TEST.probes[:-1]),
            dataclasses.replace(TEST, probes=tuple(reversed(TEST.probes))),
            dataclasses.replace(TEST, target=UrlTarget(url="http://a"), probes=(QUESTION,)),
        ],
    )
    def test_another_question_subject_or_place_has_another_key(self, other: SmokeTest) -> None:
        assert content_key(other) != content_key(TEST)


class TestDescriptionIsLight:
    def test_importing_it_imports_no_client_library(self) -> None:
        heavy = "{'pulumi', 'httpx', 'kubernetes', 'tritonclient', 'numpy', 'grpc', 'yaml', 'pydantic'}"
        program = f"import sys, engine_jobs.smoke_test; print(sorted({heavy} & set(sys.modules)))"
        done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
        assert done.stdout.strip() == "[]"
