"""What the state keeps: secrets stay secret, and the bookkeeping is the official provider's."""

import base64
from typing import Any

import pytest

from localcluster.pulumi_resource_kubernetes import checkpoint
from localcluster.pulumi_resource_kubernetes.field_ownership import follow_ignored, handover
from localcluster.pulumi_resource_kubernetes.objects import LAST_APPLIED, normalized
from localcluster.pulumi_resource_kubernetes.values import (
    UNKNOWN,
    Secret,
    from_struct,
    has_secret,
    has_unknown,
    to_struct,
)


def _outputs(live: dict[str, Any], marked: dict[str, Any]) -> dict[str, Any]:
    return checkpoint.outputs(
        live=live, inputs=marked, marked=marked, initial_api_version="v1", field_manager="pulumi-kubernetes-1"
    )


class TestValuesOnTheWire:
    @pytest.mark.parametrize(
        "value",
        [{"a": 1, "b": 1.5, "c": True, "d": None, "e": ["x", {"y": 2}], "f": ""}, {"a": Secret({"b": "c"})}, {}],
    )
    def test_come_back_as_they_went(self, value: dict[str, Any]) -> None:
        assert from_struct(to_struct(value)) == value

    def test_keep_what_is_not_known_yet(self) -> None:
        assert has_unknown(from_struct(to_struct({"a": [{"b": Secret(UNKNOWN)}]})))

    def test_are_whole_numbers_where_they_can_be(self) -> None:
        number = from_struct(to_struct({"a": 8080}))["a"]
        assert isinstance(number, int)


class TestSecrets:
    def test_of_the_inputs_are_secret_in_outputs_and_recorded_inputs(self) -> None:
        marked = {
            "kind": "ConfigMap",
            "metadata": {"annotations": {"a": Secret("hush"), "b": "open"}},
            "data": {"k": Secret("hush")},
        }
        live = {"kind": "ConfigMap", "metadata": {"annotations": {"a": "hush", "b": "open"}}, "data": {"k": "hush"}}
        outputs = _outputs(live, marked)
        assert outputs["metadata"]["annotations"] == {"a": Secret("hush"), "b": "open"}
        assert outputs["__inputs"]["data"] == {"k": Secret("hush")}

    def test_make_a_whole_list_secret_since_its_order_may_change(self) -> None:
        outputs = _outputs(
            {"kind": "Pod", "spec": {"list": ["a", "hush"]}}, {"kind": "Pod", "spec": {"list": ["a", Secret("hush")]}}
        )
        assert outputs["spec"]["list"] == Secret(["a", "hush"])

    def test_are_all_data_of_a_secret_marked_or_not(self) -> None:
        plain = {"apiVersion": "v1", "kind": "Secret", "metadata": {}, "data": {"k": "aHVzaA=="}}
        outputs = _outputs(plain, plain)
        assert outputs["data"] == Secret({"k": "aHVzaA=="})
        assert outputs["__inputs"]["data"] == Secret({"k": "aHVzaA=="})

    def test_do_not_print(self) -> None:
        assert "hush" not in repr({"a": Secret("hush")})

    def test_in_kubectls_copy_of_the_inputs_are_left_out(self) -> None:
        live = {
            "kind": "Secret",
            "metadata": {"managedFields": [1], "annotations": {LAST_APPLIED: "{...}", "mine": "1"}},
        }
        assert _outputs(live, {})["metadata"] == {"annotations": {"mine": "1"}}


class TestTheState:
    def test_tells_inputs_live_object_manager_and_first_version(self) -> None:
        inputs = {"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "x"}}
        live = {**inputs, "status": {"replicas": 1}}
        state = from_struct(to_struct(_outputs(live, inputs)))
        assert checkpoint.recorded_inputs(state) == inputs
        assert checkpoint.recorded_live(state) == live
        assert checkpoint.recorded_field_manager(state) == "pulumi-kubernetes-1"
        assert checkpoint.recorded_api_version(state, inputs) == "v1"

    def test_has_property_names_for_schema_extensions(self) -> None:
        inputs = {"kind": "X", "spec": {"x-kubernetes-preserve-unknown-fields": True}}
        outputs = _outputs(inputs, inputs)
        assert outputs["spec"] == {"x_kubernetes_preserve_unknown_fields": True}
        assert checkpoint.recorded_inputs(outputs) == inputs


class TestWhatALiveObjectSaysOfTheInputs:
    def test_is_only_what_they_speak_of(self) -> None:
        live = {"spec": {"a": 2, "default": 1, "list": [{"x": 1, "y": 2}, {"x": 3}]}, "status": {}}
        assert checkpoint.like_inputs(live, {"spec": {"a": 1, "list": [{"x": 1}]}}) == {
            "spec": {"a": 2, "list": [{"x": 1}]}
        }

    def test_is_in_their_words_where_those_still_hold(self) -> None:
        live = {"spec": {"resources": {"limits": {"cpu": "1"}}}}
        inputs = {"spec": {"resources": {"limits": {"cpu": "1000m"}}, "selector": {}, "gone": 1}}
        assert checkpoint.like_inputs(live, inputs) == {
            "spec": {"resources": {"limits": {"cpu": "1000m"}}, "selector": {}}
        }


class TestNormalForm:
    def test_of_a_secret_has_its_plain_data_encoded_over_the_rest(self) -> None:
        secret = {"apiVersion": "v1", "kind": "Secret", "data": {"a": "YQ==", "b": "Yg=="}, "stringData": {"b": "c"}}
        found = normalized(secret)
        assert found["data"] == {"a": "YQ==", "b": base64.b64encode(b"c").decode()}
        assert "stringData" not in found and "stringData" in secret

    def test_has_no_read_only_metadata(self) -> None:
        assert normalized({"metadata": {"name": "x", "uid": "1", "resourceVersion": "2"}})["metadata"] == {"name": "x"}


LIVE: dict[str, Any] = {
    "metadata": {
        "resourceVersion": "7",
        "managedFields": [
            {
                "manager": "pulumi-kubernetes",
                "operation": "Update",
                "apiVersion": "v1",
                "fieldsV1": {"f:data": {"f:a": {}}},
            },
            {"manager": "kubelet", "operation": "Update", "subresource": "status", "fieldsV1": {"f:status": {}}},
            {"manager": "me", "operation": "Apply", "apiVersion": "v1", "fieldsV1": {"f:data": {"f:b": {}}}},
        ],
    },
    "data": {"a": "live", "b": "live"},
}


class TestFieldOwnership:
    def test_goes_to_the_stacks_manager_and_leaves_the_others_theirs(self) -> None:
        patch = handover(LIVE, "me")
        assert patch is not None
        kept, own = patch[1]["value"]
        assert kept["manager"] == "kubelet"
        assert (own["manager"], own["operation"]) == ("me", "Apply")
        assert own["fieldsV1"] == {"f:data": {"f:a": {}, "f:b": {}}}
        assert patch[0]["value"] == "7", "an object that changed meanwhile must not lose an owner"

    def test_is_left_alone_where_there_is_nothing_to_hand_over(self) -> None:
        assert handover({"metadata": {"managedFields": LIVE["metadata"]["managedFields"][1:]}}, "me") is None

    def test_decides_what_becomes_of_an_ignored_field(self) -> None:
        inputs = {"data": {"a": "new", "b": "new"}}
        found = follow_ignored(inputs, LIVE, [["data", "a"], ["data", "b"]], "me")
        assert found == {"data": {"b": "live"}}, "theirs is left out, ours keeps its live value"
        assert not has_secret(found)
