"""Which cluster to talk to, and a client for it."""

import contextlib
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from engine_jobs.smoke_test.attempts import ProbeFailed

API_TIMEOUT_S = (5, 30)
"""To connect, and to read."""
SERVICE_ACCOUNT_TOKEN = Path("/var/run/secrets/kubernetes.io/serviceaccount/token")


@dataclass(frozen=True, kw_only=True)
class ClusterAccess:
    """Which cluster: a kubeconfig and context; by default the pod's own cluster, else KUBECONFIG's current one."""

    kubeconfig: str | None = None
    context: str | None = None


@contextlib.contextmanager
def api_client(access: ClusterAccess) -> Iterator[Any]:
    """Raises ProbeFailed where no usable cluster configuration is found."""
    import kubernetes
    import yaml

    in_pod = "KUBERNETES_SERVICE_HOST" in os.environ and SERVICE_ACCOUNT_TOKEN.exists()
    configuration = kubernetes.client.Configuration()
    try:
        if in_pod and access.kubeconfig is None and access.context is None:
            kubernetes.config.load_incluster_config(client_configuration=configuration)
        else:
            kubernetes.config.load_kube_config(
                config_file=access.kubeconfig, context=access.context, client_configuration=configuration
            )
    except (kubernetes.config.ConfigException, yaml.YAMLError, OSError) as error:
        source = access.kubeconfig or os.environ.get("KUBECONFIG") or "~/.kube/config"
        raise ProbeFailed(
            f"no cluster to ask: {error} (kubeconfig {source}, context {access.context or 'current'}). "
            "Set KUBECONFIG, or pass --kubeconfig and --context, or ask an address with --url"
        ) from None
    configuration.retries = False
    with kubernetes.client.ApiClient(configuration) as client:
        yield client
