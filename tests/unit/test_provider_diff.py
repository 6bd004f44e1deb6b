"""What counts as a change, and what needs a new object."""

from typing import Any

import pytest

from localcluster.pulumi_resource_kubernetes.diff import Change, changes, delete_before_replace, property_path
from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.pulumi_resource_kubernetes.values import UNKNOWN, Object

MUTABLE = Settings(enable_config_map_mutable=True, enable_secret_mutable=True)


def _of(kind: str, api_version: str = "v1", **fields: Any) -> Object:
    return {"apiVersion": api_version, "kind": kind, "metadata": {"name": "x", "namespace": "y"}, **fields}


def _diff(
    old: Object, new: Object, settings: Settings | None = None, *, patch: bool = False
) -> dict[str, tuple[Change, bool]]:
    found = changes(old, new, settings or Settings(), patch=patch)
    return {property_path(change.path): (change.change, change.replaces) for change in found}


class TestChanges:
    def test_are_named_by_the_deepest_property(self) -> None:
        old = _of("Service", spec={"ports": [{"port": 1}, {"port": 2}], "selector": {"a.b/c": "1"}, "gone": 1})
        new = _of("Service", spec={"ports": [{"port": 1}, {"port": 3}, {"port": 4}], "selector": {"a.b/c": "2"}})
        assert _diff(old, new) == {
            "spec.ports[1].port": (Change.UPDATE, False),
            "spec.ports[2]": (Change.ADD, False),
            'spec.selector["a.b/c"]': (Change.UPDATE, False),
            "spec.gone": (Change.DELETE, False),
        }

    def test_are_not_made_by_null(self) -> None:
        assert _diff(_of("Service", spec={"a": None}), _of("Service", spec={"b": None})) == {}

    def test_tell_a_boolean_from_a_number(self) -> None:
        assert _diff(_of("Service", spec={"a": 1}), _of("Service", spec={"a": True})) != {}

    def test_take_what_is_not_known_yet_for_a_change(self) -> None:
        assert _diff(_of("Service", spec={"a": 1}), _of("Service", spec={"a": UNKNOWN})) == {
            "spec.a": (Change.UPDATE, False)
        }

    @pytest.mark.parametrize(
        ("one", "other", "equal"),
        [("1000m", 1, True), ("0.5", "500m", True), ("1Gi", "1024Mi", True), ("1e3", "1k", True), ("1Gi", "1G", False)],
    )
    def test_are_not_made_by_another_spelling_of_a_quantity(self, one: Any, other: Any, equal: bool) -> None:
        def pod(amount: Any) -> Object:
            return _of(
                "Deployment",
                "apps/v1",
                spec={"resources": {"limits": {"cpu": amount}}, "env": [{"value": str(amount)}]},
            )

        found = _diff(pod(one), pod(other))
        assert ("spec.resources.limits.cpu" not in found) is equal
        assert "spec.env[0].value" in found, "only what is a quantity is compared as one"


class TestReplacement:
    @pytest.mark.parametrize(
        ("api_version", "kind", "path"),
        [
            ("batch/v1", "Job", ("spec", "template", "spec", "restartPolicy")),
            ("batch/v1", "Job", ("spec", "completionMode")),
            ("v1", "Service", ("spec", "clusterIP")),
            ("v1", "PersistentVolumeClaim", ("spec", "storageClassName")),
            ("v1", "PersistentVolume", ("spec", "hostPath", "path")),
            ("apps/v1", "Deployment", ("spec", "selector", "matchLabels", "app")),
            ("apps/v1", "StatefulSet", ("spec", "serviceName")),
            ("rbac.authorization.k8s.io/v1", "RoleBinding", ("roleRef", "name")),
            ("storage.k8s.io/v1", "StorageClass", ("provisioner",)),
            ("v1", "ConfigMap", ("data", "key")),
            ("v1", "Secret", ("data", "key")),
            ("v1", "Secret", ("type",)),
            ("v1", "Anything", ("metadata", "name")),
            ("v1", "Anything", ("metadata", "namespace")),
        ],
    )
    def test_is_needed_for_what_kubernetes_does_not_let_change(
        self, api_version: str, kind: str, path: tuple[str, ...]
    ) -> None:
        def with_value(value: str) -> Object:
            obj = _of(kind, api_version)
            holder = obj
            for step in path[:-1]:
                holder = holder.setdefault(step, {})
            holder[path[-1]] = value
            return obj

        ((_, replaces),) = _diff(with_value("one"), with_value("two")).values()
        assert replaces

    @pytest.mark.parametrize(
        ("api_version", "kind", "spec"),
        [
            ("batch/v1", "Job", {"backoffLimit": 1}),
            ("v1", "Service", {"ports": []}),
            ("v1", "PersistentVolumeClaim", {"resources": {"requests": {"storage": "2Gi"}}}),
            ("apps/v1", "Deployment", {"template": {"spec": {}}}),
            ("serving.kserve.io/v1beta1", "InferenceService", {"predictor": {}}),
        ],
    )
    def test_is_not_needed_for_the_rest(self, api_version: str, kind: str, spec: Object) -> None:
        assert not any(
            replaces
            for _, replaces in _diff(_of(kind, api_version, spec={}), _of(kind, api_version, spec=spec)).values()
        )

    def test_is_seen_when_a_whole_part_with_an_immutable_field_comes_or_changes_its_form(self) -> None:
        job = _of("Job", "batch/v1", spec={"template": {}})
        assert _diff(_of("Job", "batch/v1"), job) == {"spec": (Change.ADD, True)}
        old, new = (_of("Pod", spec={"containers": [{"name": "a", "image": image}]}) for image in ("one", "two"))
        assert _diff(old, new) == {"spec.containers[0].image": (Change.UPDATE, True)}

    def test_follows_the_provider_settings_for_data(self) -> None:
        old, new = (_of("ConfigMap", data={"a": value}) for value in "12")
        assert _diff(old, new, MUTABLE) == {"data.a": (Change.UPDATE, False)}
        old, new = ({**entry, "immutable": True} for entry in (old, new))
        assert _diff(old, new, MUTABLE) == {"data.a": (Change.UPDATE, True)}

    def test_of_a_patch_is_only_needed_for_another_object(self) -> None:
        old, new = (_of("ConfigMap", data={"a": value}) for value in "12")
        assert _diff(old, new, patch=True) == {"data.a": (Change.UPDATE, False)}

    def test_is_needed_for_another_api_group_but_not_for_another_version(self) -> None:
        assert _diff(_of("Ingress", "extensions/v1beta1"), _of("Ingress", "networking.k8s.io/v1")) == {
            "apiVersion": (Change.UPDATE, False)
        }
        assert _diff(_of("Job", "batch/v1beta1"), _of("Job", "batch/v1")) == {"apiVersion": (Change.UPDATE, False)}
        assert _diff(_of("Job", "batch/v1"), _of("Job", "other.example.com/v1")) == {
            "apiVersion": (Change.UPDATE, True)
        }


class TestOrderOfReplacement:
    def test_is_delete_first_only_for_the_same_name_that_the_user_fixed(self) -> None:
        live = _of("Job")
        assert delete_before_replace(live, _of("Job"))
        autonamed = _of("Job")
        autonamed["metadata"]["annotations"] = {"pulumi.com/autonamed": "true"}
        assert not delete_before_replace(live, autonamed)
        assert not delete_before_replace(live, {"metadata": {"name": "other", "namespace": "y"}})
        assert not delete_before_replace(live, {"metadata": {"name": "x", "namespace": "other"}})
