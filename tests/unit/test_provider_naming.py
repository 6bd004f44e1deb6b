"""Names that the user didn't choose."""

import re

import pytest

from localcluster.pulumi_resource_kubernetes.naming import Autonaming, AutonamingMode, NamingError, assign_name
from localcluster.pulumi_resource_kubernetes.objects import AUTONAMED, gvk_of_token, is_patch, parse_id, type_of_urn
from localcluster.pulumi_resource_kubernetes.values import UNKNOWN, Object


def _named(
    obj: Object, old: Object | None = None, seed: bytes = b"seed", autonaming: Autonaming | None = None
) -> Object:
    assign_name(obj, old or {}, "logical", seed, autonaming)
    return obj


class TestAutonaming:
    def test_adds_eight_hex_digits_and_marks_the_object(self) -> None:
        metadata = _named({})["metadata"]
        assert re.fullmatch(r"logical-[0-9a-f]{8}", metadata["name"])
        assert metadata["annotations"] == {AUTONAMED: "true"}

    def test_follows_the_engines_seed_so_that_one_step_has_one_name(self) -> None:
        assert _named({}, seed=b"a") == _named({}, seed=b"a")
        assert _named({}, seed=b"a") != _named({}, seed=b"b")
        assert _named({}, seed=b"") != _named({}, seed=b"")

    def test_keeps_the_name_that_an_object_has(self) -> None:
        old = _named({})
        assert _named({"metadata": {"labels": {}}}, old, seed=b"other")["metadata"]["name"] == old["metadata"]["name"]

    def test_does_not_take_over_a_name_that_the_user_chose_before(self) -> None:
        assert _named({}, {"metadata": {"name": "chosen"}})["metadata"]["name"].startswith("logical-")

    @pytest.mark.parametrize("name", ["chosen", UNKNOWN])
    def test_leaves_a_chosen_name_alone_even_one_that_is_not_known_yet(self, name: object) -> None:
        assert _named({"metadata": {"name": name}}) == {"metadata": {"name": name}}

    def test_follows_the_projects_autonaming_configuration(self) -> None:
        proposed = Autonaming(mode=AutonamingMode.ENFORCE, proposed="as-told")
        assert _named({}, autonaming=proposed)["metadata"]["name"] == "as-told"
        with pytest.raises(NamingError, match=r"set metadata\.name"):
            _named({}, autonaming=Autonaming(mode=AutonamingMode.DISABLE, proposed=""))

    def test_refuses_generate_name(self) -> None:
        with pytest.raises(NamingError, match="generateName"):
            _named({"metadata": {"generateName": "x-"}})


class TestIdentifiers:
    def test_tell_namespace_and_name(self) -> None:
        assert parse_id("models/build-1") == ("models", "build-1")
        assert parse_id("volume") == ("", "volume")

    @pytest.mark.parametrize(
        ("token", "expected"),
        [
            ("kubernetes:core/v1:ConfigMap", ("v1", "ConfigMap")),
            ("kubernetes:apps/v1:Deployment", ("apps/v1", "Deployment")),
            (
                "kubernetes:serving.kserve.io/v1beta1:InferenceService",
                ("serving.kserve.io/v1beta1", "InferenceService"),
            ),
        ],
    )
    def test_in_type_tokens_tell_api_version_and_kind(self, token: str, expected: tuple[str, str]) -> None:
        assert gvk_of_token(token) == expected

    def test_in_urns_tell_patches_from_kinds_that_only_sound_like_one(self) -> None:
        parent = "urn:pulumi:local::llm::llm-serving:build:EngineBuild$kubernetes:core/v1:ConfigMapPatch::x::y"
        assert type_of_urn(parent) == "kubernetes:core/v1:ConfigMapPatch"
        assert is_patch(parent, {"kind": "ConfigMap"})
        assert not is_patch("urn:pulumi:s::p::kubernetes:a.example.com/v1:EggPatch::x", {"kind": "EggPatch"})
