"""What `pulumi.com/waitFor` understands, and what it takes for done."""

import json
from typing import Any

import pytest

from localcluster.pulumi_resource_kubernetes.json_path import ExpressionError, parse
from localcluster.pulumi_resource_kubernetes.values import Object
from localcluster.pulumi_resource_kubernetes.wait_for import AllOf, condition_progress


def _condition(kind: str, status: str = "True", **more: Any) -> Object:
    return {"type": kind, "status": status, **more}


SERVICE: Object = {
    "metadata": {"name": "x", "generation": 2},
    "status": {
        "url": "http://x",
        "n": 3,
        "ok": True,
        "conditions": [_condition("Ready"), _condition("Routed", "False", reason="Late")],
    },
}


class TestWaitFor:
    @pytest.mark.parametrize(
        "expression",
        [
            "{.status.url}",
            "{ .status.url }=http://x",
            "{$.status.n}=3",
            "{.status.ok}=true",
            '{.status.conditions[?(@.type=="Ready")].status}=True',
            "{.status.conditions[1].reason}=Late",
            "{.status.conditions[*].type}=Ready",
            "{['status']['url']}",
        ],
    )
    def test_a_path_is_found(self, expression: str) -> None:
        assert parse(expression).matches(SERVICE)

    @pytest.mark.parametrize(
        "expression", ["{.status.address}", "{.status.url}=http://y", "{.status.conditions[7]}", "{.status.ok}=True"]
    )
    def test_a_path_is_not_found(self, expression: str) -> None:
        assert not parse(expression).matches(SERVICE)

    @pytest.mark.parametrize(
        "annotation", ["Ready", "jsonpath=.status.url", "jsonpath={.a[b}", "jsonpath={}", "[]", '["condition=A", 1]']
    )
    def test_what_can_not_be_understood_is_refused(self, annotation: str) -> None:
        with pytest.raises(ExpressionError, match=r"pulumi\.com/waitFor"):
            AllOf(annotation)

    def test_a_condition_counts_only_for_the_present_generation(self) -> None:
        assert condition_progress(SERVICE, "ready", "true").ready
        old = {**SERVICE, "status": {"observedGeneration": 1, "conditions": [_condition("Ready")]}}
        assert not condition_progress(old, "Ready", "True").ready
        assert not AllOf("jsonpath={.status.conditions}").look(old).ready

    def test_all_of_several_must_hold(self) -> None:
        assert AllOf(json.dumps(["condition=Ready", "jsonpath={.status.url}"])).look(SERVICE).ready
        progress = AllOf(json.dumps(["condition=Ready", "condition=Routed"])).look(SERVICE)
        assert not progress.ready and "Routed is False (Late)" in progress.message
