"""Server-side apply of the cluster's own objects, and a record in the cluster of what was applied.

The record is the hash of all objects, in a ConfigMap that is written last: with it, an `up` that has nothing to apply
costs one request, and an apply that was broken off is done again.
"""

import hashlib
import json
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any
from urllib.parse import quote

from engine_jobs.errors import UserError
from localcluster.apiserver_client import ApiserverClient, ApiserverError

FIELD_MANAGER = "llm-serving-local"
RECORD = {
    "apiVersion": "v1",
    "kind": "ConfigMap",
    "metadata": {"name": "llm-serving-local", "namespace": "kube-system"},
}

Manifest = dict[str, Any]


def content_hash(objects: Sequence[Manifest]) -> str:
    """64 hex digits over the objects, in their order."""
    return hashlib.sha256(json.dumps(objects, sort_keys=True).encode()).hexdigest()


def is_applied(client: ApiserverClient, objects: Sequence[Manifest]) -> bool:
    """Whether the record says that exactly these objects were applied last."""
    try:
        record = client.get("/api/v1/namespaces/kube-system/configmaps/llm-serving-local")
    except ApiserverError as error:
        if error.code == 404:
            return False
        raise
    return bool(record.get("data", {}).get("applied") == content_hash(objects))


def apply(client: ApiserverClient, objects: Sequence[Manifest]) -> None:
    """Applies them all: namespaces, then definitions (and waits for them), then the rest. Raises UserError."""
    applier = _Applier(client)
    namespaces = [item for item in objects if item["kind"] == "Namespace"]
    definitions = [item for item in objects if item["kind"] == "CustomResourceDefinition"]
    others = [item for item in objects if item not in namespaces and item not in definitions]
    with ThreadPoolExecutor(8) as pool:
        for group in (namespaces, definitions):
            list(pool.map(applier.apply, group))
        list(pool.map(lambda item: wait_established(client, item["metadata"]["name"]), definitions))
        list(pool.map(applier.apply, others))
    applier.apply({**RECORD, "data": {"applied": content_hash(objects)}})


def wait_established(client: ApiserverClient, definition: str, *, patience_s: float = 60.0) -> None:
    """Waits until the apiserver serves the kind. Raises UserError where it does not."""
    deadline = time.monotonic() + patience_s
    path = f"/apis/apiextensions.k8s.io/v1/customresourcedefinitions/{definition}"
    while True:
        conditions = client.get(path).get("status", {}).get("conditions") or []
        if any(c["type"] == "Established" and c["status"] == "True" for c in conditions):
            return
        if time.monotonic() > deadline:
            raise UserError(f"the apiserver does not serve {definition} after {patience_s:.0f} s: {conditions}")
        time.sleep(0.1)


class _Applier:
    """Knows each kind's path, asked of the apiserver once for each API version."""

    def __init__(self, client: ApiserverClient) -> None:
        self.client = client
        self.resources: dict[str, dict[str, tuple[str, bool]]] = {}

    def apply(self, item: Manifest) -> None:
        metadata = item["metadata"]
        path = f"{self._collection(item)}/{quote(metadata['name'], safe='')}?fieldManager={FIELD_MANAGER}&force=true"
        try:
            self.client.request("PATCH", path, item, content_type="application/apply-patch+yaml")
        except ApiserverError as error:
            raise UserError(f"the apiserver refused {item['kind']} {metadata['name']}: {error}") from error
        except TimeoutError as error:
            raise UserError(f"the apiserver took too long over {item['kind']} {metadata['name']}: try again") from error

    def _collection(self, item: Manifest) -> str:
        version = item["apiVersion"]
        base = f"/apis/{version}" if "/" in version else f"/api/{version}"
        plural, namespaced = self._resource(base, item["kind"])
        namespace = f"/namespaces/{item['metadata']['namespace']}" if namespaced else ""
        return f"{base}{namespace}/{plural}"

    def _resource(self, base: str, kind: str) -> tuple[str, bool]:
        """A kind's plural and whether it is namespaced; a kind whose definition is new may show only after a moment."""
        for _ in range(100):
            if kind in self.resources.get(base, {}):
                return self.resources[base][kind]
            try:
                listed = self.client.get(base)["resources"]
                self.resources[base] = {r["kind"]: (r["name"], r["namespaced"]) for r in listed if "/" not in r["name"]}
            except ApiserverError as error:
                if error.code != 404:
                    raise
            if kind not in self.resources.get(base, {}):
                time.sleep(0.1)
        raise UserError(f"the apiserver does not know the kind {kind} of {base}")
