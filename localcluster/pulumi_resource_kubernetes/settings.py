"""The provider's own configuration: what the stack's configuration, the Provider resource or the environment set."""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass

from localcluster.pulumi_resource_kubernetes.values import Json, Object, Unknown, reveal

_PREFIX = "kubernetes:config:"
_REFUSED = {
    "renderYamlToDirectory": "rendering YAML instead of using a cluster",
    "helmReleaseSettings": "Helm",
}


@dataclass(frozen=True, kw_only=True)
class Settings:
    """The configuration that this provider follows; defaults are those of pulumi-kubernetes 4.34."""

    kubeconfig: str = ""  # a path or the contents; "": KUBECONFIG, else ~/.kube/config, else the pod's own account
    context: str = ""
    cluster: str = ""
    namespace: str = ""
    upsert_existing_objects: bool = False
    enable_patch_force: bool = False
    enable_config_map_mutable: bool = False
    enable_secret_mutable: bool = False
    delete_unreachable: bool = False
    skip_update_unreachable: bool = False
    suppress_deprecation_warnings: bool = False
    request_timeout_s: float = 60.0


def from_variables(variables: Mapping[str, str], environment: Mapping[str, str] = os.environ) -> Settings:
    """Settings from Configure's variables (`kubernetes:config:KEY`) and the PULUMI_K8S_… variables of the environment."""

    def flag(key: str, variable: str) -> bool:
        value = variables.get(_PREFIX + key)
        return (environment.get(variable, "") if value is None else value) == "true"

    client = json.loads(variables.get(f"{_PREFIX}kubeClientSettings") or "{}")
    timeout = client.get("timeout") or environment.get("PULUMI_K8S_CLIENT_TIMEOUT")
    return Settings(
        kubeconfig=variables.get(f"{_PREFIX}kubeconfig", ""),
        context=variables.get(f"{_PREFIX}context", ""),
        cluster=variables.get(f"{_PREFIX}cluster", ""),
        namespace=variables.get(f"{_PREFIX}namespace", ""),
        upsert_existing_objects=flag("upsertExistingObjects", "PULUMI_K8S_UPSERT_EXISTING_OBJECTS"),
        enable_patch_force=flag("enablePatchForce", "PULUMI_K8S_ENABLE_PATCH_FORCE"),
        enable_config_map_mutable=flag("enableConfigMapMutable", "PULUMI_K8S_ENABLE_CONFIGMAP_MUTABLE"),
        enable_secret_mutable=flag("enableSecretMutable", "PULUMI_K8S_ENABLE_SECRET_MUTABLE"),
        delete_unreachable=flag("deleteUnreachable", "PULUMI_K8S_DELETE_UNREACHABLE"),
        skip_update_unreachable=flag("skipUpdateUnreachable", "PULUMI_K8S_SKIP_UPDATE_UNREACHABLE"),
        suppress_deprecation_warnings=flag("suppressDeprecationWarnings", "PULUMI_K8S_SUPPRESS_DEPRECATION_WARNINGS"),
        request_timeout_s=float(timeout) if timeout else 60.0,
    )


def failures(news: Object, environment: Mapping[str, str] = os.environ) -> list[tuple[str, str]]:
    """(property, reason) for each configured thing that this stand-in can't do."""
    found = [
        (key, f"{what} needs the official Kubernetes provider; this stand-in doesn't have it")
        for key, what in _REFUSED.items()
        if news.get(key)
    ]
    apply = news.get("enableServerSideApply", environment.get("PULUMI_K8S_ENABLE_SERVER_SIDE_APPLY", "true"))
    if str(apply).lower() == "false":
        reason = "client-side apply needs the official Kubernetes provider; this stand-in applies server-side only"
        found.append(("enableServerSideApply", reason))
    return found


def changes(olds: Object, news: Object) -> tuple[list[str], list[str]]:
    """(changed keys, keys that replace the provider and with it every resource of it).

    A clusterIdentifier decides alone where it is set on both sides; without one, another active cluster in the
    kubeconfig, or a kubeconfig that isn't known yet, replaces.
    """
    olds, news = reveal(olds), reveal(news)
    changed = [key for key in sorted({*olds, *news}) if olds.get(key) != news.get(key)]
    identifier = news.get("clusterIdentifier")
    if identifier and olds.get("clusterIdentifier"):
        return changed, ["clusterIdentifier"] if "clusterIdentifier" in changed else []
    where = [key for key in changed if key in ("kubeconfig", "context", "cluster")]
    if unknown := [key for key in where if isinstance(news[key], Unknown)]:
        return changed, unknown
    old, new = _active_cluster(olds), _active_cluster(news)
    return changed, where if old is not None and new is not None and old != new else []


def _active_cluster(configuration: Object) -> Json:
    """The kubeconfig's entry of the cluster that a configuration points at; None where it can't be told."""
    from localcluster.pulumi_resource_kubernetes.kubeconfig import KubeconfigError, explicit_config, named_entry

    try:
        config = explicit_config(configuration.get("kubeconfig") or "")
    except KubeconfigError:
        return None
    context = named_entry(config, "contexts", configuration.get("context") or config.get("current-context", ""))
    if context is None:
        return None
    cluster = configuration.get("cluster") or (context.get("context") or {}).get("cluster", "")
    entry = named_entry(config, "clusters", cluster)
    return None if entry is None else entry.get("cluster")
