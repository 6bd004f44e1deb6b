"""Where the stand-in provider refuses: one clear message, and neither the cluster nor the state is touched."""

from collections.abc import Callable
from pathlib import Path

import yaml

from tests.engine.control_plane import ControlPlane, free_ports
from tests.engine.project import Project

PROGRAM = 'k8s.core.v1.ConfigMap("kept", metadata={"name": "kept"}, data={"key": "VALUE"})'


def _pointing_at(plane: ControlPlane, server: str, path: Path) -> Path:
    """A kubeconfig for another server."""
    config = yaml.safe_load(plane.kubeconfig.read_text())
    config["clusters"][0]["cluster"]["server"] = server
    path.write_text(yaml.safe_dump(config))
    return path


class TestAnUnreachableCluster:
    def test_is_named_with_what_to_do_and_nothing_is_lost(
        self, new_project: Callable[..., Project], plane: ControlPlane, tmp_path: Path
    ) -> None:
        project = new_project(KUBECONFIG=str(plane.kubeconfig)).program(PROGRAM)
        project.up().ok()
        (port,) = free_ports(1)
        server = f"https://127.0.0.1:{port}"
        project.environment["KUBECONFIG"] = str(_pointing_at(plane, server, tmp_path / "elsewhere"))
        project.program(PROGRAM.replace("VALUE", "other"))

        preview = project.preview().ok().output
        assert "this preview shows the inputs only" in preview and server in preview
        for refused in (
            project.up(),
            project.run("refresh", "--yes", "--skip-preview", "--stack=test"),
            project.destroy(),
        ):
            output = refused.failed().output
            assert "the Kubernetes cluster can't be reached" in output
            assert f"context test of {tmp_path / 'elsewhere'} ({server})" in output
            assert "Connection refused" in output
        assert project.resource("ConfigMap")["outputs"]["data"] == {"key": "VALUE"}
        assert plane.get("/api/v1/namespaces/default/configmaps/kept")["data"] == {"key": "VALUE"}


class TestAKubeconfig:
    def test_that_is_missing_or_lacks_the_context_is_named(
        self, new_project: Callable[..., Project], plane: ControlPlane, tmp_path: Path
    ) -> None:
        project = new_project(KUBECONFIG=str(tmp_path / "absent")).program(PROGRAM)
        assert f"there is no kubeconfig at {tmp_path / 'absent'}" in project.up().failed().output
        project.environment["KUBECONFIG"] = str(plane.kubeconfig)
        project.run("config", "set", "--stack=test", "kubernetes:context", "elsewhere").ok()
        output = project.up().failed().output
        assert "has no context 'elsewhere' (it has: test)" in output


class TestWhatTheApiserverRefuses:
    def test_is_shown_with_its_own_reason(self, project: Project) -> None:
        project.program("""
            k8s.core.v1.ConfigMap("Bad_Name", metadata={"name": "Bad_Name"}, data={"key": "value"})
            k8s.apiextensions.CustomResource(
                "unknown", api_version="nobody.example.com/v1", kind="Nothing", metadata={"name": "x"},
                opts=pulumi.ResourceOptions(custom_timeouts=pulumi.CustomTimeouts(create="5s")),
            )
        """)
        output = project.preview().failed().output
        assert "ConfigMap default/Bad_Name was not made" in output
        assert "lowercase RFC 1123 subdomain" in output


class TestWhatOnlyTheOfficialProviderCanDo:
    def test_is_refused_with_the_way_to_it(self, project: Project) -> None:
        project.program("""
            k8s.helm.v4.Chart("chart", chart="oci://example.com/none")
        """)
        output = project.up().failed().output
        assert (
            "this stand-in for pulumi-resource-kubernetes can't make the component kubernetes:helm.sh/v4:Chart"
            in output
        )
        assert "install the official provider" in output
