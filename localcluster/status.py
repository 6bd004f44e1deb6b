"""What of the local cluster runs, listens and answers, as a table or as JSON."""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

from localcluster import kserve, network
from localcluster.apiserver_client import ApiserverClient, ApiserverError
from localcluster.cluster import Cluster
from localcluster.component import Component
from localcluster.paths import NODE_NAME, Paths
from localcluster.preflight import listeners


@dataclass(frozen=True, kw_only=True)
class Row:
    """One component. `listens` and `healthy` are None where the question does not apply; `since` in epoch seconds."""

    name: str
    pid: int | None
    addresses: tuple[str, ...]
    listens: bool | None
    healthy: bool
    since: float | None

    @property
    def is_up(self) -> bool:
        return self.healthy and self.listens is not False


def status(paths: Paths) -> list[Row]:
    """A row for each process, then for what runs inside Kubernetes. An empty list where there is no cluster."""
    cluster = Cluster(paths)
    if not cluster.is_prepared:
        return []
    components = [component for wave in cluster.waves(Path, "") for component in wave]
    listening = {(str(listener.address), listener.port) for listener in listeners()}
    inside: list[tuple[str, Callable[[ApiserverClient], bool]]] = [
        ("node", node_is_ready),
        ("kserve-controller", kserve.controller_is_available),
        ("kserve-webhooks", kserve.webhooks_answer),
        ("gateway", kserve.gateway_is_programmed),
    ]
    client = cluster.client
    with ThreadPoolExecutor(8) as pool:
        processes = pool.map(lambda component: _process_row(cluster, component, listening), components)
        objects = pool.map(lambda entry: _object_row(entry[0], entry[1](client)), inside)
        return [*processes, _object_row("network", network.is_complete()), *objects]


def node_is_ready(client: ApiserverClient) -> bool:
    """Whether the kubelet has registered the node and says that it takes pods."""
    try:
        node = client.get(f"/api/v1/nodes/{NODE_NAME}")
    except (ApiserverError, OSError):
        return False
    return any(c["type"] == "Ready" and c["status"] == "True" for c in node["status"].get("conditions") or [])


def as_table(rows: Sequence[Row]) -> str:
    """Columns component, pid, listening, healthy, since."""
    lines = [("COMPONENT", "PID", "LISTENING", "HEALTHY", "SINCE")]
    for row in rows:
        listening = {None: "-", True: " ".join(row.addresses), False: f"NO ({' '.join(row.addresses)})"}[row.listens]
        since = "-" if row.since is None else time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(row.since))
        lines.append((row.name, str(row.pid or "-"), listening, "yes" if row.healthy else "NO", since))
    widths = [max(len(line[column]) for line in lines) for column in range(5)]
    return "\n".join("  ".join(f"{cell:<{width}}" for cell, width in zip(line, widths, strict=True)) for line in lines)


def as_json(rows: Sequence[Row]) -> str:
    return json.dumps([{**asdict(row), "up": row.is_up} for row in rows], indent=2)


def _process_row(cluster: Cluster, component: Component, listening: set[tuple[str, int]]) -> Row:
    record = cluster.table.running(component.name)
    return Row(
        name=component.name,
        pid=None if record is None else record.pid,
        addresses=tuple(f"{host}:{port}" for host, port in component.addresses),
        listens=all(address in listening for address in component.addresses) if component.addresses else None,
        healthy=record is not None and component.is_healthy(),
        since=None if record is None else record.since,
    )


def _object_row(name: str, healthy: bool) -> Row:
    return Row(name=name, pid=None, addresses=(), listens=None, healthy=healthy, since=None)
