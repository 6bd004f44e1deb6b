"""`pulumi-resource-kubernetes [ENGINE ADDRESS]`: what the engine starts."""

import sys
import threading

from localcluster.plugin_server import engine_address, serve
from localcluster.pulumi_protocol import load_protocol_only


def _import_client() -> None:
    """The Kubernetes client takes half a second to import: the engine's first questions need not wait for it."""
    import kubernetes.config  # noqa: F401


def main() -> None:
    """Serves the provider until the engine is gone."""
    load_protocol_only()
    from localcluster.pulumi_resource_kubernetes.engine import Engine
    from localcluster.pulumi_resource_kubernetes.provider import KubernetesProvider, register

    provider = KubernetesProvider(Engine(engine_address(sys.argv[1:])))
    threading.Thread(target=_import_client, daemon=True).start()
    serve(lambda server: register(provider, server), provider.cancel)


if __name__ == "__main__":
    main()
