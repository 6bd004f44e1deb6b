"""The objects in a YAML text, as yaml.ConfigFile and yaml.ConfigGroup get them."""

import threading

import pytest

from localcluster.pulumi_resource_kubernetes.engine import Engine
from localcluster.pulumi_resource_kubernetes.errors import ProviderError
from localcluster.pulumi_resource_kubernetes.session import Session
from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.pulumi_resource_kubernetes.yaml_documents import decode

MANIFEST = """
# nothing here
---
apiVersion: v1
kind: ConfigMap
metadata: {name: a, labels: {released: 2024-01-31}}
---
apiVersion: v1
kind: Namespace
metadata: {name: b}
---
not: an object
"""


@pytest.fixture
def session() -> Session:
    """One without a cluster: what is namespaced is known all the same."""
    return Session(Settings(kubeconfig="/nonexistent"), Engine(""), threading.Event())


class TestDecode:
    def test_keeps_objects_and_leaves_dates_as_they_are_written(self, session: Session) -> None:
        found = decode(MANIFEST, "", session)
        assert [obj["metadata"]["name"] for obj in found] == ["a", "b"]
        assert found[0]["metadata"]["labels"] == {"released": "2024-01-31"}

    def test_gives_the_default_namespace_to_what_lives_in_one(self, session: Session) -> None:
        found = decode(MANIFEST, "models", session)
        assert [obj["metadata"].get("namespace") for obj in found] == ["models", None]

    def test_names_what_is_wrong_in_a_broken_text(self, session: Session) -> None:
        with pytest.raises(ProviderError, match="line 1"):
            decode("a: [", "", session)
