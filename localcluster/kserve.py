"""KServe in Standard mode: its own manifests, with what a single node without cert-manager needs changed.

Taken from the module's config/default: definitions, RBAC, the controller's Deployment and the webhooks. Changed: the
certificates are ours, the kube-rbac-proxy side container and the tight limits go, and the probes look sooner. The
cluster-wide serving runtimes are left out: each model brings its own.
"""

import base64
import hashlib
import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import yaml

from engine_jobs.errors import UserError
from localcluster.apiserver_client import ApiserverClient, ApiserverError
from localcluster.gateway import API_GROUP, GATEWAY, NAMESPACE
from localcluster.gcs_endpoint import URL as GCS_URL
from localcluster.manifests import Manifest
from localcluster.paths import INGRESS_DOMAIN
from localcluster.pki import KSERVE_WEBHOOK, Pki

CONTROLLER = "kserve-controller-manager"
CONFIG = "inferenceservice-config"
# Above upstream's limit of 1Gi, at which larger models end as OOM, and below its request, as there are two cores.
STORAGE_INITIALIZER = {"cpuRequest": "50m", "cpuLimit": "2", "memoryRequest": "100Mi", "memoryLimit": "2Gi"}
_CERT_MANAGER_ANNOTATION = "cert-manager.io/inject-ca-from"
_WEBHOOKS = ("MutatingWebhookConfiguration", "ValidatingWebhookConfiguration")
# cert-manager's, the metrics proxy's, and an empty Secret that nothing reads.
_DROPPED_KINDS = ("Certificate", "Issuer")
_DROPPED_NAMES = (
    "kserve-proxy-role",
    "kserve-proxy-rolebinding",
    "kserve-controller-manager-metrics-service",
    "kserve-controller-manager-service",
    "kserve-webhook-server-secret",
)
# The kinds of the Gateway API that KServe's routes and Traefik use.
_GATEWAY_KINDS = ("GatewayClass", "Gateway", "HTTPRoute", "GRPCRoute", "ReferenceGrant")


def render(kubectl: Path, kserve_config: Path, gateway_crds: Path, cached: Path) -> list[Manifest]:
    """The upstream objects, from the two modules' folders; kept as JSON in `cached`, since the YAML takes seconds."""
    if not cached.exists():
        folders = (kserve_config / "configmap", kserve_config / "default", gateway_crds)
        objects = [item for folder in folders for item in _kustomize(kubectl, folder)]
        cached.parent.mkdir(parents=True, exist_ok=True)
        draft = cached.with_suffix(".new")
        draft.write_text(json.dumps(objects))
        draft.replace(cached)
    loaded: list[Manifest] = json.loads(cached.read_text())
    return loaded


def kserve_objects(
    upstream: Sequence[Manifest], pki: Pki, controller_image: str, storage_initializer_image: str
) -> list[Manifest]:
    """What is applied: the upstream objects as this module's docstring says, and the configuration."""
    (upstream_config,) = (item for item in upstream if item["metadata"]["name"] == CONFIG)
    config = inference_service_config(upstream_config, storage_initializer_image)
    settled = hashlib.sha256((config["data"]["ingress"] + config["data"]["deploy"]).encode()).hexdigest()[:16]
    authority = base64.b64encode(pki.webhook_authority.certificate.read_bytes()).decode()
    objects: list[Manifest] = [
        {
            "apiVersion": "v1",
            "kind": "Namespace",
            "metadata": {"name": NAMESPACE, "labels": {"control-plane": CONTROLLER}},
        },
        config,
        webhook_certificate(pki),
        storage_container(storage_initializer_image),
    ]
    for item in upstream:
        kind, name = item["kind"], item["metadata"]["name"]
        if kind in _DROPPED_KINDS or name in (CONFIG, *_DROPPED_NAMES) or _is_unused_gateway_object(item):
            continue
        changed = _without_injection(item)
        if kind in _WEBHOOKS:
            webhooks = [
                {**hook, "clientConfig": {**hook["clientConfig"], "caBundle": authority}} for hook in item["webhooks"]
            ]
            changed = {**changed, "webhooks": webhooks}
        elif kind == "Deployment" and name == CONTROLLER:
            changed = _controller(changed, controller_image, settled)
        objects.append(changed)
    return objects


def inference_service_config(upstream: Manifest, storage_initializer_image: str) -> Manifest:
    """The ConfigMap `inferenceservice-config`: Standard mode, routes through the Gateway API, requests for two cores.

    All else is as upstream has it: the controller refuses to start, or to mutate a pod, where a part is missing.
    """
    changes: dict[str, dict[str, object]] = {
        "deploy": {"defaultDeploymentMode": "Standard"},
        "ingress": {
            "enableGatewayApi": True,
            "kserveIngressGateway": f"{NAMESPACE}/{GATEWAY}",
            "ingressDomain": INGRESS_DOMAIN,
            "disableIstioVirtualHost": True,
            "disableHTTPRouteTimeout": True,
        },
        "storageInitializer": {"image": storage_initializer_image, **STORAGE_INITIALIZER, "enableModelcar": False},
        "inferenceService": {
            "resource": {"cpuRequest": "100m", "cpuLimit": "2", "memoryRequest": "256Mi", "memoryLimit": "4Gi"}
        },
    }
    data = {key: text for key, text in upstream["data"].items() if key != "_example"}
    for key, values in changes.items():
        data[key] = json.dumps({**json.loads(data[key]), **values}, indent=2)
    return {**upstream, "data": data}


def webhook_certificate(pki: Pki) -> Manifest:
    pair = pki.pair(KSERVE_WEBHOOK.name)
    return {
        "apiVersion": "v1",
        "kind": "Secret",
        "metadata": {"name": "kserve-webhook-server-cert", "namespace": NAMESPACE},
        "type": "kubernetes.io/tls",
        "data": {
            "tls.crt": base64.b64encode(pair.certificate.read_bytes()).decode(),
            "tls.key": base64.b64encode(pair.key.read_bytes()).decode(),
        },
    }


def storage_container(image: str) -> Manifest:
    """What downloads a model into its pod: s3:// as the pod's ServiceAccount says, gs:// from the GCS endpoint."""
    values = STORAGE_INITIALIZER
    return {
        "apiVersion": "serving.kserve.io/v1alpha1",
        "kind": "ClusterStorageContainer",
        "metadata": {"name": "default"},
        "spec": {
            "container": {
                "name": "storage-initializer",
                "image": image,
                "imagePullPolicy": "IfNotPresent",
                "env": [{"name": "STORAGE_EMULATOR_HOST", "value": GCS_URL}],
                "resources": {
                    "requests": {"cpu": values["cpuRequest"], "memory": values["memoryRequest"]},
                    "limits": {"cpu": values["cpuLimit"], "memory": values["memoryLimit"]},
                },
            },
            "supportedUriFormats": [{"prefix": "s3://"}, {"prefix": "gs://"}, {"prefix": "hf://"}],
            "workloadType": "initContainer",
            "supportsMultiModelDownload": True,
        },
    }


def controller_is_available(client: ApiserverClient) -> bool:
    """Whether the Deployment's newest revision is rolled out and available."""
    path = f"/apis/apps/v1/namespaces/{NAMESPACE}/deployments/{CONTROLLER}"
    try:
        found = client.get(path)
    except (ApiserverError, OSError):
        return False
    status = found.get("status", {})
    counts = {status.get(name) for name in ("replicas", "updatedReplicas", "availableReplicas")}
    return counts == {1} and bool(status.get("observedGeneration") == found["metadata"]["generation"])


def webhooks_answer(client: ApiserverClient) -> bool:
    """Whether the apiserver reaches the webhooks: a dry run of an InferenceService passes through all of its own."""
    probe = {
        "apiVersion": "serving.kserve.io/v1beta1",
        "kind": "InferenceService",
        "metadata": {"name": "webhook-probe", "namespace": "default"},
        "spec": {"predictor": {"containers": [{"name": "kserve-container", "image": "localhost/none:1"}]}},
    }
    path = "/apis/serving.kserve.io/v1beta1/namespaces/default/inferenceservices?dryRun=All"
    try:
        client.request("POST", path, probe)
    except (ApiserverError, OSError):
        return False
    return True


def gateway_is_programmed(client: ApiserverClient) -> bool:
    """Whether Traefik has taken the Gateway."""
    try:
        gateway = client.get(f"/apis/{API_GROUP}/v1/namespaces/{NAMESPACE}/gateways/{GATEWAY}")
    except (ApiserverError, OSError):
        return False
    conditions = gateway.get("status", {}).get("conditions") or []
    return any(c["type"] == "Programmed" and c["status"] == "True" for c in conditions)


def _controller(deployment: Manifest, image: str, settled: str) -> Manifest:
    template = deployment["spec"]["template"]
    (manager,) = (c for c in template["spec"]["containers"] if c["name"] == "manager")
    probe = {"periodSeconds": 2, "failureThreshold": 10, "timeoutSeconds": 5}
    manager = {
        **manager,
        "image": image,
        "imagePullPolicy": "IfNotPresent",
        "args": ["--metrics-addr=127.0.0.1:8080"],
        "resources": {"requests": {"cpu": "50m", "memory": "100Mi"}, "limits": {"memory": "1Gi"}},
        "readinessProbe": {**probe, "periodSeconds": 1, "httpGet": {"path": "/readyz", "port": 8081}},
        "livenessProbe": {**probe, "initialDelaySeconds": 30, "httpGet": {"path": "/healthz", "port": 8081}},
    }
    # The controller reads these parts of its configuration only when it starts.
    annotations = {**template["metadata"].get("annotations", {}), "llm-serving/config": settled}
    return {
        **deployment,
        "spec": {
            **deployment["spec"],
            "replicas": 1,
            "template": {
                "metadata": {**template["metadata"], "annotations": annotations},
                "spec": {**template["spec"], "containers": [manager]},
            },
        },
    }


def _is_unused_gateway_object(item: Manifest) -> bool:
    """Kinds of the Gateway API that nothing here uses, and the policy that would refuse a change of their channel."""
    if item["kind"].startswith("ValidatingAdmissionPolicy"):
        return True
    spec = item.get("spec", {})
    return (
        item["kind"] == "CustomResourceDefinition"
        and spec["group"] == API_GROUP
        and spec["names"]["kind"] not in _GATEWAY_KINDS
    )


def _without_injection(item: Manifest) -> Manifest:
    metadata = {key: value for key, value in item["metadata"].items() if key != "creationTimestamp"}
    annotations = {k: v for k, v in metadata.get("annotations", {}).items() if k != _CERT_MANAGER_ANNOTATION}
    return {**item, "metadata": {**metadata, "annotations": annotations}}


def _kustomize(kubectl: Path, folder: Path) -> list[Manifest]:
    done = subprocess.run([kubectl, "kustomize", folder], capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise UserError(f"`kubectl kustomize {folder}` failed: {done.stderr.strip()}")
    loader = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
    return [item for item in yaml.load_all(done.stdout, loader) if item]
