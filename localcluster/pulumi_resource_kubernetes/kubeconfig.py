"""Which cluster, as whom: the kubeconfig of the configuration, read the way kubectl reads it."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from localcluster.pulumi_resource_kubernetes.settings import Settings
from localcluster.pulumi_resource_kubernetes.values import Json, Object


class KubeconfigError(Exception):
    """A kubeconfig that is missing, can't be read, or lacks the named context."""


@dataclass(frozen=True, kw_only=True)
class Access:
    """How to reach a cluster."""

    client: Any  # kubernetes.client.ApiClient
    namespace: str  # where namespaced objects go that name none
    described: str  # `context NAME of PATH (SERVER)`, for messages


def named_entry(config: Object, section: str, name: str) -> Object | None:
    """The entry of a kubeconfig's list by its name."""
    return next((entry for entry in config.get(section) or [] if entry.get("name") == name), None)


def explicit_config(path_or_contents: Json) -> Object:
    """The kubeconfig given as a path, as contents, or as an object. {} for none. Raises KubeconfigError."""
    if isinstance(path_or_contents, dict):
        return path_or_contents
    if not path_or_contents:
        return {}
    path = _existing_path(path_or_contents)
    try:
        parsed = yaml.safe_load(path.read_text() if path else path_or_contents)
    except (OSError, yaml.YAMLError) as error:
        raise KubeconfigError(f"the kubeconfig {path or '(its contents)'} can't be read: {error}") from None
    if not isinstance(parsed, dict):
        raise KubeconfigError(
            f"the kubeconfig {path_or_contents!r} is neither a file nor the contents of one: correct kubernetes:kubeconfig"
        )
    return parsed


def _existing_path(path_or_contents: str) -> Path | None:
    if "\n" in path_or_contents:
        return None
    path = Path(path_or_contents).expanduser()
    return path if path.is_file() else None


def _merged(paths: list[Path]) -> Object:
    """kubectl's rule for several files in KUBECONFIG: of two entries with the same name the first one counts."""
    merged: Object = {"clusters": [], "contexts": [], "users": []}
    for path in paths:
        config = _with_absolute_paths(explicit_config(str(path)), path.parent)
        for section in ("clusters", "contexts", "users"):
            for entry in config.get(section) or []:
                if named_entry(merged, section, entry.get("name")) is None:
                    merged[section].append(entry)
        if not merged.get("current-context"):
            merged["current-context"] = config.get("current-context") or ""
    return merged


def _with_absolute_paths(config: Object, folder: Path) -> Object:
    """Files that a kubeconfig names lie relative to it."""
    for section, kind, keys in (
        ("clusters", "cluster", ("certificate-authority",)),
        ("users", "user", ("client-certificate", "client-key", "tokenFile")),
    ):
        for entry in config.get(section) or []:
            for key in keys:
                if file := (entry.get(kind) or {}).get(key):
                    entry[kind][key] = str(folder / file)
    return config


def access_of(settings: Settings, environment: Mapping[str, str] = os.environ) -> Access:
    """The client for the configured cluster; nothing is sent to it. Raises KubeconfigError."""
    from kubernetes import client, config

    configuration = client.Configuration()
    if settings.kubeconfig:
        path = _existing_path(settings.kubeconfig)
        source = str(path or "the configured kubeconfig")
        contents = _with_absolute_paths(explicit_config(settings.kubeconfig), path.parent if path else Path())
    else:
        files = [f for f in environment.get("KUBECONFIG", "").split(os.pathsep) if f] or ["~/.kube/config"]
        paths = [path for file in files if (path := Path(file).expanduser()).is_file()]
        source = os.pathsep.join(files)
        if not paths:
            if "KUBERNETES_SERVICE_HOST" in environment:
                return _in_cluster(settings)
            raise KubeconfigError(
                f"there is no kubeconfig at {source}: set KUBECONFIG, or kubernetes:kubeconfig in the stack's configuration"
            )
        contents = _merged(paths)
    name = settings.context or contents.get("current-context", "")
    entry = named_entry(contents, "contexts", name)
    if entry is None:
        known = ", ".join(str(context.get("name")) for context in contents.get("contexts") or []) or "none"
        raise KubeconfigError(f"the kubeconfig {source} has no context {name!r} (it has: {known})")
    if settings.cluster:
        entry["context"] = {**entry["context"], "cluster": settings.cluster}
    try:
        loader = config.kube_config.KubeConfigLoader(config_dict=contents, active_context=name)
        loader.load_and_set(configuration)
    except (config.ConfigException, OSError, ValueError) as error:
        raise KubeconfigError(f"the context {name} of the kubeconfig {source} can't be used: {error}") from None
    return Access(
        client=_client(configuration),
        namespace=settings.namespace or entry["context"].get("namespace") or "default",
        described=f"context {name} of {source} ({configuration.host})",
    )


def _in_cluster(settings: Settings) -> Access:
    from kubernetes import client, config

    configuration = client.Configuration()
    config.load_incluster_config(client_configuration=configuration)
    own = Path("/var/run/secrets/kubernetes.io/serviceaccount/namespace")
    return Access(
        client=_client(configuration),
        namespace=settings.namespace or (own.read_text().strip() if own.is_file() else "default"),
        described=f"this pod's service account ({configuration.host})",
    )


def _client(configuration: Any) -> Any:
    from kubernetes import client
    from urllib3 import Retry, disable_warnings
    from urllib3.exceptions import InsecureRequestWarning

    if not configuration.verify_ssl:
        # The kubeconfig says so; a warning for each request would bury everything else.
        disable_warnings(InsecureRequestWarning)
    # Reads and deletes are asked again when the connection breaks, as by a restart; what makes something never is.
    configuration.retries = Retry(connect=1, read=2, redirect=0, status=0, other=0)
    # One connection for each resource that is handled at a time.
    configuration.connection_pool_maxsize = 64
    return client.ApiClient(configuration)
