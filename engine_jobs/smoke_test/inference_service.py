"""Waits until a KServe InferenceService serves what its spec says, and reads where.

KServe 0.20 in Standard mode takes `.status.observedGeneration` from the Deployment and keeps Ready true while that
rolls (pkg/apis/serving/v1beta1/inference_service_status.go), so Ready alone would let an update be judged by the old
pods: the Deployments' own roll-out is read too.
"""

import time
from collections.abc import Callable, Mapping
from typing import Any

import kubernetes
import urllib3

from engine_jobs.smoke_test.attempts import Deadline, ProbeFailed
from engine_jobs.smoke_test.cluster import API_TIMEOUT_S, ClusterAccess, api_client
from engine_jobs.smoke_test.endpoint import Endpoint
from engine_jobs.smoke_test.spec import InferenceServiceTarget

FIRST_PAUSE_S = 0.3
LONGEST_PAUSE_S = 3.0
UNREACHABLE_FOR_S = 20.0
"""How long the API server may be unreachable before that is the verdict."""
INVALID_FOR_S = 10.0
"""How long KServe may call a spec invalid before that is the verdict: it may not know a new ServingRuntime yet."""

SERVICE_LABEL = "serving.kserve.io/inferenceservice"


def wait_until_serving(
    target: InferenceServiceTarget, access: ClusterAccess, deadline: Deadline, report: Callable[[str], None]
) -> Endpoint:
    """Returns where the service answers. Raises ProbeFailed, which shows what is not ready, its reason and its pods."""
    where = f"InferenceService {target.name} in namespace {target.namespace}"
    pause, said = FIRST_PAUSE_S, ""
    unreachable = invalid = None
    waiting = ["nothing is known of it yet"]
    with api_client(access) as client:
        while True:
            try:
                service = _read_service(client, target)
                waiting = _what_is_missing(service, _read_deployments(client, target), target.pod_labels)
                unreachable = None
            except kubernetes.client.ApiException as error:
                waiting = [_judge_api_error(error, target)]
            except (urllib3.exceptions.HTTPError, OSError) as error:
                unreachable = unreachable or time.monotonic()
                waiting = [f"the API server {client.configuration.host} does not answer: {_reason(error)}"]
                if time.monotonic() - unreachable > min(UNREACHABLE_FOR_S, deadline.seconds / 2):
                    raise ProbeFailed(
                        f"{where}: {waiting[0]}. Is the cluster up, and is this its kubeconfig?"
                    ) from None
            else:
                if not waiting:
                    return _endpoint(service, target)
                invalid = (invalid or time.monotonic()) if _is_invalid(service) else None
                if invalid is not None and time.monotonic() - invalid > min(INVALID_FOR_S, deadline.seconds / 2):
                    raise ProbeFailed(f"{where} cannot be served as it is specified:\n  " + "\n  ".join(waiting))
            if not deadline.left():
                break
            if waiting[0] != said:
                said = waiting[0]
                report(f"waiting for {target.name}: {said}")
            time.sleep(min(pause, deadline.left()))
            pause = min(1.5 * pause, LONGEST_PAUSE_S)
        pods = _pods_in_trouble(client, target)
    look = f"describe pods --selector {SERVICE_LABEL}={target.name}"
    if not pods and all(line.startswith("IngressReady") for line in waiting):
        pods = ["its pods are well: does the gateway's controller run, and does it accept the route?"]
        look = "describe httproutes"
    head = f"{where} is not ready after {deadline.spent():.0f} s:"
    raise ProbeFailed("\n  ".join([head, *waiting, *pods, f"Look at: kubectl --namespace {target.namespace} {look}"]))


def _read_service(client: Any, target: InferenceServiceTarget) -> dict[str, Any]:
    service: dict[str, Any] = kubernetes.client.CustomObjectsApi(client).get_namespaced_custom_object(
        "serving.kserve.io",
        "v1beta1",
        target.namespace,
        "inferenceservices",
        target.name,
        _request_timeout=API_TIMEOUT_S,
    )
    return service


def _read_deployments(client: Any, target: InferenceServiceTarget) -> list[dict[str, Any]]:
    found = kubernetes.client.AppsV1Api(client).list_namespaced_deployment(
        target.namespace, label_selector=f"{SERVICE_LABEL}={target.name}", _request_timeout=API_TIMEOUT_S
    )
    items: list[dict[str, Any]] = client.sanitize_for_serialization(found.items)
    return items


def _what_is_missing(
    service: Mapping[str, Any], deployments: list[dict[str, Any]], pod_labels: Mapping[str, str]
) -> list[str]:
    """What keeps the service from being asked, one line each; empty when it serves its spec."""
    status = service.get("status") or {}
    conditions = {each["type"]: each for each in status.get("conditions") or ()}
    missing = []
    if (conditions.get("Ready") or {}).get("status") != "True":
        failure = (status.get("modelStatus") or {}).get("lastFailureInfo") or {}
        # The ingress waits for the others, so it is told of last.
        told = [
            _words(f"{name} is {each.get('status')}", each)
            for name, each in sorted(conditions.items(), key=lambda item: (item[0] == "IngressReady", item[0]))
            if each.get("status") != "True" and name not in ("Ready", "Stopped")
        ]
        if conditions.get("Stopped", {}).get("status") == "True":
            told.insert(0, "it is stopped (annotation serving.kserve.io/stop)")
        missing += told or ["it has no conditions yet: does the KServe controller run?"]
        if failure:
            missing.append(_words(f"model failure at {failure.get('location') or 'the predictor'}", failure))
    current = [each for each in deployments if _carries(each, pod_labels)]
    # Knative keeps an old revision's Deployment, scaled to nothing.
    outdated = [each for each in deployments if each not in current and each["spec"].get("replicas", 1) > 0]
    missing += [f"Deployment {each['metadata']['name']} still lacks {_labels(pod_labels)}" for each in outdated]
    if pod_labels and not current:
        missing.append(f"it has no Deployment with {_labels(pod_labels)} yet")
    for deployment in current:
        missing += _roll_out(deployment)
    if not missing and not status.get("url"):
        missing.append("it is Ready but has no .status.url yet")
    return missing


def _carries(deployment: Mapping[str, Any], pod_labels: Mapping[str, str]) -> bool:
    labels = deployment["spec"]["template"]["metadata"].get("labels") or {}
    return all(labels.get(key) == value for key, value in pod_labels.items())


def _labels(pod_labels: Mapping[str, str]) -> str:
    return "the label " + ", ".join(f"{key}={value}" for key, value in pod_labels.items())


def _roll_out(deployment: Mapping[str, Any]) -> list[str]:
    """What keeps the Deployment from serving its present template with all of its replicas."""
    name, spec, status = deployment["metadata"]["name"], deployment["spec"], deployment.get("status") or {}
    wanted = spec.get("replicas", 1)
    updated, present, ready = (status.get(key, 0) for key in ("updatedReplicas", "replicas", "readyReplicas"))
    if status.get("observedGeneration", 0) < deployment["metadata"].get("generation", 0):
        return [f"Deployment {name}: its change is still to be taken up"]
    if updated < wanted or present > updated or ready < updated:
        return [
            f"Deployment {name}: {updated} of {wanted} pods are new, {present - updated} are old, {ready} are ready"
        ]
    return []


def _is_invalid(service: Mapping[str, Any]) -> bool:
    model_status = (service.get("status") or {}).get("modelStatus") or {}
    return bool(model_status.get("transitionStatus") == "InvalidSpec")


def _endpoint(service: Mapping[str, Any], target: InferenceServiceTarget) -> Endpoint:
    status = service["status"]
    components = {name: each["url"] for name, each in (status.get("components") or {}).items() if each.get("url")}
    return Endpoint(url=status["url"], gateway=target.gateway, component_urls=components)


def _pods_in_trouble(client: Any, target: InferenceServiceTarget) -> list[str]:
    """One line for each container that waits or failed and each pod without a node. Best effort: the verdict stands."""
    try:
        found = kubernetes.client.CoreV1Api(client).list_namespaced_pod(
            target.namespace, label_selector=f"{SERVICE_LABEL}={target.name}", _request_timeout=API_TIMEOUT_S
        )
    except (kubernetes.client.ApiException, urllib3.exceptions.HTTPError, OSError) as error:
        return [f"(its pods cannot be listed: {_reason(error)})"]
    pods: list[dict[str, Any]] = client.sanitize_for_serialization(found.items)
    staying = [pod for pod in pods if "deletionTimestamp" not in pod["metadata"]]
    return [line for pod in staying for line in _pod_lines(pod)]


def _pod_lines(pod: Mapping[str, Any]) -> list[str]:
    status, name = pod.get("status") or {}, pod["metadata"]["name"]
    lines = [
        _words(f"pod {name} is not scheduled", each)
        for each in status.get("conditions") or ()
        if each["type"] == "PodScheduled" and each["status"] != "True"
    ]
    for container in [*(status.get("initContainerStatuses") or ()), *(status.get("containerStatuses") or ())]:
        state = container.get("state") or {}
        last = (container.get("lastState") or {}).get("terminated")
        place = f"pod {name}, container {container['name']}"
        if "waiting" in state and state["waiting"].get("reason") != "PodInitializing":
            lines.append(_words(f"{place} waits", state["waiting"]))
        if (ended := state.get("terminated") or last) and ended.get("exitCode"):
            lines.append(_words(f"{place} ended with exit code {ended['exitCode']}", ended))
        elif "running" in state and not container.get("ready", True):
            lines.append(f"{place} runs and is not ready: look at its log")
    return lines


def _judge_api_error(error: Any, target: InferenceServiceTarget) -> str:
    """What to say while waiting on; raises ProbeFailed where waiting does not help."""
    where = f"InferenceService {target.name} in namespace {target.namespace}"
    if error.status == 404:
        raise ProbeFailed(f"there is no {where} (or no KServe in this cluster): is the name right?") from None
    if error.status in (401, 403):
        raise ProbeFailed(
            f"not allowed to read the {where} ({error.status} {error.reason}): the account needs get and list "
            "on inferenceservices (serving.kserve.io), deployments (apps) and pods in this namespace"
        ) from None
    return f"the API server answers {error.status} {error.reason}"


def _words(head: str, detail: Mapping[str, Any]) -> str:
    told = ": ".join(" ".join(str(detail[key]).split()) for key in ("reason", "message") if detail.get(key))
    return f"{head}: {told}" if told else head


def _reason(error: BaseException) -> str:
    return " ".join(str(getattr(error, "reason", None) or error).split())
