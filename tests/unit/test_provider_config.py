"""The provider's own configuration: which cluster, what changes it, what it refuses."""

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from localcluster.pulumi_resource_kubernetes import settings
from localcluster.pulumi_resource_kubernetes.errors import ApiError, UnreachableError
from localcluster.pulumi_resource_kubernetes.kubeconfig import KubeconfigError, access_of
from localcluster.pulumi_resource_kubernetes.scopes import Scopes
from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.pulumi_resource_kubernetes.values import UNKNOWN


def _kubeconfig(path: Path, *, name: str = "one", server: str = "https://one:1", namespace: str | None = None) -> Path:
    context = {"cluster": name, "user": name, **({"namespace": namespace} if namespace else {})}
    config = {
        "current-context": name,
        "contexts": [{"name": name, "context": context}],
        "clusters": [{"name": name, "cluster": {"server": server}}],
        "users": [{"name": name, "user": {"token": f"token-{name}"}}],
    }
    path.write_text(yaml.safe_dump(config))
    return path


class TestSettings:
    def test_come_from_the_configuration_then_the_environment(self) -> None:
        environment = {"PULUMI_K8S_UPSERT_EXISTING_OBJECTS": "true", "PULUMI_K8S_ENABLE_SECRET_MUTABLE": "true"}
        found = settings.from_variables({"kubernetes:config:upsertExistingObjects": "false"}, environment)
        assert (found.upsert_existing_objects, found.enable_secret_mutable) == (False, True)

    def test_are_safe_by_default(self) -> None:
        found = settings.from_variables({}, {})
        assert not (found.upsert_existing_objects or found.delete_unreachable or found.enable_patch_force)

    def test_for_what_this_provider_lacks_are_refused(self) -> None:
        found = dict(settings.failures({"renderYamlToDirectory": "x", "enableServerSideApply": "false"}, {}))
        assert set(found) == {"renderYamlToDirectory", "enableServerSideApply"}
        assert all("official" in reason for reason in found.values())
        assert settings.failures({"enableServerSideApply": True, "context": "x"}, {}) == []


class TestAChangedProvider:
    def _configuration(self, folder: Path, server: str, **more: Any) -> dict[str, Any]:
        path = _kubeconfig(folder / f"{server.rpartition('/')[2]}.yaml", server=server)
        return {"kubeconfig": path.read_text(), **more}

    def test_replaces_everything_when_it_points_at_another_cluster(self, tmp_path: Path) -> None:
        one, two = (self._configuration(tmp_path, f"https://{name}") for name in ("a", "b"))
        assert settings.changes(one, two) == (["kubeconfig"], ["kubeconfig"])
        assert settings.changes(one, {**one, "namespace": "x"}) == (["namespace"], [])
        assert settings.changes(one, one) == ([], [])

    def test_replaces_nothing_while_its_cluster_identifier_stays(self, tmp_path: Path) -> None:
        one, two = (self._configuration(tmp_path, f"https://{name}", clusterIdentifier="id") for name in ("a", "b"))
        assert settings.changes(one, two) == (["kubeconfig"], [])
        assert settings.changes(one, {**one, "clusterIdentifier": "other"})[1] == ["clusterIdentifier"]

    def test_replaces_when_nobody_knows_yet_where_it_points(self, tmp_path: Path) -> None:
        one = self._configuration(tmp_path, "https://a")
        assert settings.changes(one, {"kubeconfig": UNKNOWN})[1] == ["kubeconfig"]


class TestKubeconfig:
    def test_is_a_path_or_contents(self, tmp_path: Path) -> None:
        path = _kubeconfig(tmp_path / "config", namespace="models")
        for given in (str(path), path.read_text()):
            access = access_of(Settings(kubeconfig=given), {})
            assert access.client.configuration.host == "https://one:1"
            assert access.namespace == "models"

    def test_in_several_files_is_merged_and_the_first_one_counts(self, tmp_path: Path) -> None:
        first = _kubeconfig(tmp_path / "first")
        (tmp_path / "second").write_text(_kubeconfig(tmp_path / "x", name="two", server="https://two:2").read_text())
        environment = {"KUBECONFIG": f"{first}:{tmp_path / 'absent'}:{tmp_path / 'second'}"}
        assert access_of(Settings(), environment).client.configuration.host == "https://one:1"
        assert access_of(Settings(context="two"), environment).client.configuration.host == "https://two:2"

    def test_finds_its_files_beside_itself(self, tmp_path: Path) -> None:
        path = _kubeconfig(tmp_path / "config")
        config = yaml.safe_load(path.read_text())
        config["clusters"][0]["cluster"]["certificate-authority"] = "ca.pem"
        path.write_text(yaml.safe_dump(config))
        (tmp_path / "ca.pem").write_text("")
        access = access_of(Settings(kubeconfig=str(path)), {})
        assert access.client.configuration.ssl_ca_cert == str(tmp_path / "ca.pem")

    def test_that_can_not_be_used_is_named(self, tmp_path: Path) -> None:
        for given, message in (
            (str(tmp_path / "absent"), "neither a file nor the contents of one"),
            ("a: [", "can't be read"),
            (str(_kubeconfig(tmp_path / "config")), "has no context 'other'"),
        ):
            with pytest.raises(KubeconfigError, match=message):
                access_of(Settings(kubeconfig=given, context="other"), {})


class TestErrors:
    @pytest.mark.parametrize(
        ("reason", "said"),
        [
            (
                "HTTPSConnectionPool(host='127.0.0.1', port=1): Max retries exceeded with url: /version (Caused by "
                "NewConnectionError('<urllib3.connection.HTTPSConnection object at 0x7f>: Failed to establish a new "
                "connection: [Errno 111] Connection refused'))",
                "[Errno 111] Connection refused",
            ),
            (
                "HTTPSConnectionPool(host='x', port=1): Max retries exceeded with url: /version (Caused by "
                "NameResolutionError(\"HTTPSConnection(host='x', port=1): Failed to resolve 'x' "
                '([Errno -2] Name or service not known)"))',
                "Failed to resolve 'x' ([Errno -2] Name or service not known",
            ),
            (
                "('Connection aborted.', RemoteDisconnected('Remote end closed connection without response'))",
                "Remote end closed connection without response",
            ),
            (
                "HTTPSConnectionPool(host='x', port=1): Max retries exceeded with url: / (Caused by SSLError("
                "SSLCertVerificationError(1, '[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)')))",
                "[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed (_ssl.c:1006)",
            ),
        ],
    )
    def test_of_the_connection_say_where_why_and_what_to_do(self, reason: str, said: str) -> None:
        message = str(UnreachableError("context c of /k (https://127.0.0.1:1)", reason))
        assert message.startswith(
            f"the Kubernetes cluster can't be reached: context c of /k (https://127.0.0.1:1): {said}"
        )
        assert "HTTPSConnection object" not in message
        assert "kubeconfig" in message and "nothing was changed" in message

    def test_of_the_apiserver_keep_its_reason_and_causes(self) -> None:
        cause = {"reason": "FieldManagerConflict", "message": 'conflict with "kubectl"', "field": ".data.a"}
        body = {"kind": "Status", "reason": "Conflict", "message": "Apply failed", "details": {"causes": [cause]}}
        error = ApiError.from_body(409, "Conflict", json.dumps(body).encode())
        assert (str(error), error.causes[0].path) == ("Apply failed", ".data.a")
        assert str(ApiError.from_body(502, "Bad Gateway", b"")) == "502 Bad Gateway"


class TestScopes:
    def test_are_known_without_a_cluster(self) -> None:
        scopes = Scopes()
        crd = {
            "apiVersion": "apiextensions.k8s.io/v1",
            "kind": "CustomResourceDefinition",
            "spec": {"group": "g.example.com", "names": {"kind": "Wide"}, "scope": "Cluster"},
        }
        scopes.learn(crd)
        found = {
            kind: scopes.namespaced({"apiVersion": version, "kind": kind}, None)
            for version, kind in (
                ("v1", "Namespace"),
                ("v1", "Secret"),
                ("g.example.com/v1", "Wide"),
                ("g.example.com/v1", "Other"),
            )
        }
        assert found == {"Namespace": False, "Secret": True, "Wide": False, "Other": True}
