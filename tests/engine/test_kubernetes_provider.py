"""The stand-in provider under the real engine, against a real apiserver: a resource's life from create to destroy."""

import json
from typing import Any

from tests.engine.control_plane import ControlPlane
from tests.engine.project import Project

CONFIG_MAPS = "/api/v1/namespaces/default/configmaps"


def _name(entry: dict[str, Any]) -> str:
    name: str = entry["outputs"]["metadata"]["name"]
    return name


class TestAnUnnamedObject:
    PROGRAM = """
        settings = k8s.core.v1.ConfigMap(
            "settings", metadata={{"labels": {labels}}}, data={data}
        )
        pulumi.export("name", settings.metadata.name)
    """

    def test_is_named_previewed_made_kept_replaced_and_destroyed(self, project: Project, plane: ControlPlane) -> None:
        before = plane.get(CONFIG_MAPS)["items"]
        project.program(self.PROGRAM.format(labels={"a": "1"}, data={"key": "one"}))
        preview = project.preview().ok()
        assert "+ kubernetes:core/v1:ConfigMap: (create)" in preview.output
        assert plane.get(CONFIG_MAPS)["items"] == before, "a preview wrote"

        project.up().ok()
        made = project.resource("ConfigMap")
        first = _name(made)
        assert first.startswith("settings-") and len(first) == len("settings-") + 8
        assert made["id"] == f"default/{first}"
        assert made["outputs"]["metadata"]["annotations"] == {"pulumi.com/autonamed": "true"}
        assert made["outputs"]["__inputs"]["data"] == {"key": "one"}
        assert "managedFields" not in made["outputs"]["metadata"]
        assert plane.get(f"{CONFIG_MAPS}/{first}")["data"] == {"key": "one"}

        version = plane.get(f"{CONFIG_MAPS}/{first}")["metadata"]["resourceVersion"]
        assert "2 unchanged" in project.up().ok().output
        assert plane.get(f"{CONFIG_MAPS}/{first}")["metadata"]["resourceVersion"] == version

        # Labels change in place, and what isn't asked for any more goes: the fields are owned.
        project.program(self.PROGRAM.format(labels={"b": "2"}, data={"key": "one"}))
        assert "1 updated" in project.up().ok().output
        live = plane.get(f"{CONFIG_MAPS}/{first}")
        assert live["metadata"]["labels"] == {"b": "2"}
        owners = [entry["manager"] for entry in live["metadata"]["managedFields"]]
        assert owners == [project.resource("ConfigMap")["outputs"]["__fieldManager"]]

        # Data of a ConfigMap is immutable by default: a new object first, then the old one goes.
        project.program(self.PROGRAM.format(labels={"b": "2"}, data={"key": "two"}))
        shown = project.preview().ok().output
        assert "+-kubernetes:core/v1:ConfigMap: (replace)" in shown
        assert plane.get(f"{CONFIG_MAPS}/{first}")["metadata"] == live["metadata"], "a preview wrote"
        replaced = project.up().ok().output
        assert replaced.index("created replacement") < replaced.index("deleted original")
        second = _name(project.resource("ConfigMap"))
        assert second != first
        assert plane.get(f"{CONFIG_MAPS}/{first}") is None
        assert plane.get(f"{CONFIG_MAPS}/{second}")["data"] == {"key": "two"}

        project.destroy().ok()
        assert plane.get(f"{CONFIG_MAPS}/{second}") is None
        assert project.resources("ConfigMap") == []


class TestANamedObject:
    def test_is_deleted_before_its_replacement_is_made(self, project: Project, plane: ControlPlane) -> None:
        program = """
            k8s.core.v1.ConfigMap("fixed", metadata={{"name": "fixed-name"}}, data={{"key": "{value}"}})
        """
        project.program(program.format(value="one")).up().ok()
        uid = plane.get(f"{CONFIG_MAPS}/fixed-name")["metadata"]["uid"]
        output = project.program(program.format(value="two")).up().ok().output
        assert output.index("deleted original") < output.index("created replacement")
        live = plane.get(f"{CONFIG_MAPS}/fixed-name")
        assert (live["data"], live["metadata"]["uid"] != uid) == ({"key": "two"}, True)

    def test_that_exists_already_fails_the_create_unless_upsert_is_asked_for(
        self, project: Project, plane: ControlPlane
    ) -> None:
        body = {"apiVersion": "v1", "kind": "ConfigMap", "metadata": {"name": "theirs"}, "data": {"key": "theirs"}}
        plane.request("POST", CONFIG_MAPS, body)
        program = """
            cluster = k8s.Provider("cluster", upsert_existing_objects={upsert})
            k8s.core.v1.ConfigMap(
                "theirs",
                metadata={{"name": "theirs", "labels": {{"ours": "yes"}}}},
                opts=pulumi.ResourceOptions(provider=cluster),
            )
        """
        refused = project.program(program.format(upsert=False)).up().failed()
        assert "ConfigMap default/theirs is already in the cluster" in refused.output
        assert "pulumi import" in refused.output and "upsertExistingObjects" in refused.output
        assert "labels" not in plane.get(f"{CONFIG_MAPS}/theirs")["metadata"]

        project.program(program.format(upsert=True)).up().ok()
        live = plane.get(f"{CONFIG_MAPS}/theirs")
        assert (live["metadata"]["labels"], live["data"]) == ({"ours": "yes"}, {"key": "theirs"})


class TestDrift:
    PROGRAM = """
        k8s.core.v1.ConfigMap("drifting", metadata={"name": "drifting", "labels": {"owner": "us"}}, data={"k": "v"})
    """

    def test_is_seen_by_a_refresh_and_put_right_by_the_next_update(self, project: Project, plane: ControlPlane) -> None:
        project.program(self.PROGRAM).up().ok()
        plane.merge(f"{CONFIG_MAPS}/drifting", {"metadata": {"labels": {"owner": "them", "extra": "1"}}})
        refreshed = project.run("refresh", "--yes", "--skip-preview", "--stack=test").ok()
        assert "1 updated" in refreshed.output
        recorded = project.resource("ConfigMap")
        assert recorded["inputs"]["metadata"]["labels"] == {"owner": "them"}, "what isn't ours is no input"

        conflict = project.up().failed()
        assert "other field managers own what this stack wants to set" in conflict.output
        assert ".metadata.labels.owner" in conflict.output and "pulumi.com/patchForce" in conflict.output
        assert plane.get(f"{CONFIG_MAPS}/drifting")["metadata"]["labels"]["owner"] == "them"

        forced = self.PROGRAM.replace('"labels"', '"annotations": {"pulumi.com/patchForce": "true"}, "labels"')
        project.program(forced).up().ok()
        assert plane.get(f"{CONFIG_MAPS}/drifting")["metadata"]["labels"] == {"owner": "us", "extra": "1"}

        plane.request("DELETE", f"{CONFIG_MAPS}/drifting")
        vanished = project.program(self.PROGRAM).up().failed()
        assert "isn't in the cluster any more" in vanished.output and "pulumi refresh" in vanished.output
        project.run("refresh", "--yes", "--skip-preview", "--stack=test").ok()
        assert project.resources("ConfigMap") == []
        project.up().ok()
        assert plane.get(f"{CONFIG_MAPS}/drifting")["data"] == {"k": "v"}


class TestImport:
    def test_takes_an_object_over_without_changing_it(self, project: Project, plane: ControlPlane) -> None:
        body = {
            "apiVersion": "v1",
            "kind": "ConfigMap",
            "metadata": {"name": "found", "labels": {"a": "b"}},
            "data": {"key": "value"},
        }
        plane.request("POST", CONFIG_MAPS, body)
        version = plane.get(f"{CONFIG_MAPS}/found")["metadata"]["resourceVersion"]
        program = """
            k8s.core.v1.ConfigMap(
                "found",
                metadata={"name": "found", "namespace": "default", "labels": {"a": "b"}},
                data={"key": "value"},
                opts=pulumi.ResourceOptions(import_="default/found"),
            )
        """
        assert "1 imported" in project.program(program).up().ok().output
        assert plane.get(f"{CONFIG_MAPS}/found")["metadata"]["resourceVersion"] == version
        assert "2 unchanged" in project.up().ok().output
        missing = project.program(program.replace("default/found", "default/lost").replace('"found"', '"lost"'))
        refused = missing.up().failed().output
        assert "does not exist" in refused


class TestSecrets:
    VALUE = "correct-horse-battery-staple"

    def test_are_never_in_plain_text_in_the_state_or_the_output(self, project: Project, plane: ControlPlane) -> None:
        program = f"""
            token = k8s.core.v1.Secret("token", metadata={{"name": "token"}}, string_data={{"value": "{self.VALUE}"}})
            other = pulumi.Output.secret("{self.VALUE}")
            k8s.core.v1.ConfigMap("holder", metadata={{"name": "holder", "annotations": {{"held": other}}}})
            pulumi.export("data", token.data)
        """
        outputs = [project.program(program).preview().ok().output, project.up("--diff").ok().output]
        outputs.append(json.dumps(project.export()))
        outputs.append(project.run("stack", "output", "--json", "--stack=test").ok().output)
        encoded = "Y29ycmVjdC1ob3JzZS1iYXR0ZXJ5LXN0YXBsZQ=="
        for text in outputs:
            assert self.VALUE not in text
            assert encoded not in text
        assert plane.get("/api/v1/namespaces/default/secrets/token")["data"] == {"value": encoded}
        assert plane.get(f"{CONFIG_MAPS}/holder")["metadata"]["annotations"]["held"] == self.VALUE


class TestKindsThatTheProviderNeverHeardOf:
    PROGRAM = """
        definition = k8s.apiextensions.v1.CustomResourceDefinition(
            "widgets",
            metadata={"name": "widgets.trial.example.com"},
            spec={
                "group": "trial.example.com",
                "names": {"kind": "Widget", "plural": "widgets"},
                "scope": "Namespaced",
                "versions": [{
                    "name": "v1",
                    "served": True,
                    "storage": True,
                    "schema": {"openAPIV3Schema": {
                        "type": "object",
                        "properties": {"spec": {"type": "object", "properties": {
                            "size": {"type": "integer"},
                            "color": {"type": "string", "default": "blue"},
                        }}},
                    }},
                }],
            },
        )
        widget = k8s.apiextensions.CustomResource(
            "widget",
            api_version="trial.example.com/v1",
            kind="Widget",
            metadata={"name": "one"},
            spec={"size": SIZE},
            opts=pulumi.ResourceOptions(depends_on=[definition]),
        )
        k8s.apiextensions.CustomResourcePatch(
            "painted",
            api_version="trial.example.com/v1",
            kind="Widget",
            metadata={"name": "one", "annotations": {"pulumi.com/patchForce": "true"}},
            spec={"color": "red"},
            opts=pulumi.ResourceOptions(depends_on=[widget]),
        ) if PAINTED else None
    """

    def test_are_found_even_when_their_definition_comes_in_the_same_update(
        self, project: Project, plane: ControlPlane
    ) -> None:
        def program(size: int, *, painted: bool) -> Project:
            return project.program(self.PROGRAM.replace("SIZE", str(size)).replace("PAINTED", str(painted)))

        path = "/apis/trial.example.com/v1/namespaces/default/widgets/one"
        program(1, painted=False).preview().ok()
        project.up().ok()
        assert plane.get(path)["spec"] == {"size": 1, "color": "blue"}
        assert project.resource("Widget")["id"] == "default/one"
        assert "3 unchanged" in project.up().ok().output, "a default of the server is no change"

        program(2, painted=True).up().ok()
        assert plane.get(path)["spec"] == {"size": 2, "color": "red"}
        # A patch that goes gives its fields back, and leaves the object.
        program(2, painted=False).up().ok()
        assert plane.get(path)["spec"] == {"size": 2, "color": "blue"}
        project.destroy().ok()
        assert plane.get(path) is None
