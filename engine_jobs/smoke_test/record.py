"""Leaves the verdict in the cluster, as a ConfigMap beside the Job, for the stack's outputs to show."""

import os

import kubernetes

from engine_jobs.smoke_test.verdict import Verdict


def record_data(verdict: Verdict) -> dict[str, str]:
    """The ConfigMap's data: whether it passed, and what was asked and answered in how many seconds."""
    told = verdict.to_dict()
    seconds = told["answer_seconds"]
    return {
        "verdict": "passed" if verdict.ok else "failed",
        "request": str(told["request"] or ""),
        "answer": str(told["answer"] or ""),
        "seconds": f"{seconds:.2f}" if isinstance(seconds, float) else "",
    }


def record(verdict: Verdict, name: str, namespace: str) -> None:
    """Writes the ConfigMap. It belongs to the Job of the same name where JOB_UID says which that is, and goes with it.

    Raises kubernetes' ApiException where the pod's ServiceAccount may not write ConfigMaps.
    """
    kubernetes.config.load_incluster_config()
    metadata: dict[str, object] = {"name": name, "labels": {"app.kubernetes.io/component": "smoke-test"}}
    if uid := os.environ.get("JOB_UID"):
        metadata["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}]
    body = {"metadata": metadata, "data": record_data(verdict)}
    api = kubernetes.client.CoreV1Api()
    try:
        api.create_namespaced_config_map(namespace, body)
    except kubernetes.client.ApiException as error:
        if error.status != 409:
            raise
        api.replace_namespaced_config_map(name, namespace, body)
