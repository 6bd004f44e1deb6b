"""Leaves the verdict in the cluster, as a ConfigMap beside the Job, for the stack's outputs to show."""

import os
from typing import Any

import kubernetes
import urllib3

from engine_jobs.errors import UserError
from engine_jobs.smoke_test.attempts import ProbeFailed
from engine_jobs.smoke_test.cluster import API_TIMEOUT_S, ClusterAccess, api_client
from engine_jobs.smoke_test.verdict import Verdict


def record_data(verdict: Verdict) -> dict[str, str]:
    """The ConfigMap's data: whether it passed, what was asked and answered in how many seconds, and what was wrong."""
    told = verdict.to_dict()
    seconds = told["answer_seconds"]
    return {
        "verdict": "passed" if verdict.ok else "failed",
        "request": str(told["request"] or ""),
        "answer": str(told["answer"] or ""),
        "seconds": f"{seconds:.2f}" if isinstance(seconds, float) else "",
    } | ({"error": verdict.error} if verdict.error else {})


def record(verdict: Verdict, name: str, namespace: str, access: ClusterAccess) -> None:
    """Writes the ConfigMap. It belongs to the Job of the same name where JOB_UID says which that is, and goes with it.

    Raises UserError where it cannot be written.
    """
    metadata: dict[str, Any] = {"name": name, "labels": {"app.kubernetes.io/component": "smoke-test"}}
    if uid := os.environ.get("JOB_UID"):
        metadata["ownerReferences"] = [{"apiVersion": "batch/v1", "kind": "Job", "name": name, "uid": uid}]
    body = {"metadata": metadata, "data": record_data(verdict)}
    try:
        with api_client(access) as client:
            api = kubernetes.client.CoreV1Api(client)
            try:
                api.create_namespaced_config_map(namespace, body, _request_timeout=API_TIMEOUT_S)
            except kubernetes.client.ApiException as error:
                if error.status != 409:
                    raise
                api.replace_namespaced_config_map(name, namespace, body, _request_timeout=API_TIMEOUT_S)
    except kubernetes.client.ApiException as error:
        raise UserError(
            f"the verdict cannot be written to ConfigMap {name} in namespace {namespace}: {error.status} {error.reason}. "
            "The account needs create and update on configmaps there"
        ) from None
    except (urllib3.exceptions.HTTPError, OSError, ProbeFailed) as error:
        raise UserError(
            f"the verdict cannot be written to ConfigMap {name} in namespace {namespace}: {error}"
        ) from None
