"""Plays the kubelet where there is none: says what became of a pod's container."""

import threading
from typing import Any

from tests.engine.control_plane import ControlPlane

PODS = "/api/v1/namespaces/default/pods"


def end_pod(plane: ControlPlane, pod: dict[str, Any], exit_code: int, message: str) -> None:
    """The status of a pod whose container `main` ended."""
    ended = {"exitCode": exit_code, "reason": "Completed" if exit_code == 0 else "Error", "message": message}
    container = {
        "name": "main",
        "image": "localhost/none:1",
        "imageID": "",
        "ready": False,
        "restartCount": 0,
        "state": {"terminated": ended},
    }
    status = {"phase": "Succeeded" if exit_code == 0 else "Failed", "containerStatuses": [container]}
    plane.merge(f"{PODS}/{pod['metadata']['name']}/status", {"status": status})


def end_pods(plane: ControlPlane, label: str, exit_code: int, message: str, stop: threading.Event) -> None:
    """Ends every pod with the label that starts before `stop`."""
    ended: set[str] = set()
    while not stop.wait(0.2):
        for pod in plane.get(f"{PODS}?labelSelector={label}")["items"]:
            if pod["metadata"]["uid"] not in ended and pod.get("status", {}).get("phase") == "Pending":
                ended.add(pod["metadata"]["uid"])
                end_pod(plane, pod, exit_code, message)
