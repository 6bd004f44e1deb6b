"""The load test as a Kubernetes Job: measured from inside the cluster, without the way from a laptop to the gateway.

Its log is the result: the table, then one line of JSON, of which `python -m engine_jobs.load report LOG --out DIR` makes the page again. No
ConfigMap: the numbers of a large tuning are more than one holds (1 MiB), and a log needs no rights in the cluster.
"""

from collections.abc import Sequence
from typing import Any

from engine_jobs.recipe import JobSpec, Resources, Step

IMAGE = "load"
"""Its name among the project's images."""

USER = 1000


def load_job(*, image: str, command: str, arguments: Sequence[str], timeout_seconds: int) -> JobSpec:
    """A Job of `python -m engine_jobs.load COMMAND ARGUMENTS…` that leaves its results in its log. A closed loop of HTTP requests
    needs no more than a core."""
    log = ("--json", "--progress", "lines")
    return JobSpec(
        name=command,
        image=image,
        steps=(Step(name=command, command=("python", "-m", "engine_jobs.load", command, *arguments, *log)),),
        resources=Resources(cpu="1", memory="1Gi"),
        timeout_seconds=timeout_seconds,
    )


def manifest(spec: JobSpec, *, model: str, namespace: str) -> dict[str, Any]:
    """batch/v1 Job for `kubectl create -f -`: a measurement is made once, on demand, so it is no part of the stack. Each has a name
    of its own, runs at most once, has no rights in the cluster, and is taken away a day after its end."""
    labels = {"app.kubernetes.io/component": "load-test", "llm-serving/model": model}
    (step,) = spec.steps
    container = {
        "name": step.name,
        "image": spec.image,
        "imagePullPolicy": "IfNotPresent",
        "command": list(step.command),
        "env": [{"name": "HOME", "value": "/tmp"}],
        "resources": {"requests": spec.resources.requests, "limits": spec.resources.limits},
        "securityContext": {
            "allowPrivilegeEscalation": False,
            "capabilities": {"drop": ["ALL"]},
            "runAsNonRoot": True,
            "seccompProfile": {"type": "RuntimeDefault"},
        },
        "terminationMessagePolicy": "FallbackToLogsOnError",
    }
    pod = {
        "restartPolicy": "Never",
        "automountServiceAccountToken": False,
        "enableServiceLinks": False,
        # A tuning that is ended needs the time to load the model as it was.
        "terminationGracePeriodSeconds": 600,
        "securityContext": {"runAsUser": USER, "runAsGroup": USER},
        "containers": [container],
    }
    return {
        "apiVersion": "batch/v1",
        "kind": "Job",
        "metadata": {"generateName": f"{model}-{spec.name}-", "namespace": namespace, "labels": dict(labels)},
        "spec": {
            "backoffLimit": 0,
            "activeDeadlineSeconds": spec.timeout_seconds,
            "ttlSecondsAfterFinished": 24 * 3600,
            "template": {"metadata": {"labels": dict(labels)}, "spec": pod},
        },
    }
