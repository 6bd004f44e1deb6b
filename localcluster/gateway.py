"""The gateway: Traefik as a process of the host, the implementation of the Gateway API that KServe's routes go through."""

import json

from localcluster.component import Component, ToolPath, answers
from localcluster.kubeconfig import client_kubeconfig
from localcluster.paths import GATEWAY_PORT, HOST_ADDRESS, Paths
from localcluster.pki import Pki

LOOPBACK = "127.0.0.1"
PING_PORT = 8889
USER = "system:traefik"
NAMESPACE = "kserve"
GATEWAY = "kserve-ingress-gateway"
GATEWAY_CLASS = "traefik"
API_GROUP = "gateway.networking.k8s.io"


def traefik(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    kubeconfig, routes = paths.config / "traefik.kubeconfig", paths.config / "traefik-loopback.json"
    return Component(
        name="traefik",
        argv=(
            str(tool("traefik")),
            "--global.checknewversion=false",
            "--global.sendanonymoususage=false",
            "--log.level=INFO",
            f"--entrypoints.web.address={HOST_ADDRESS}:{GATEWAY_PORT}",
            # A Gateway's listener takes one entry point by its port, and it must be the one that pods reach. One with TLS
            # is passed over for HTTP, so this keeps the loopback's out; its TCP route never comes to the TLS.
            f"--entrypoints.loopback.address={LOOPBACK}:{GATEWAY_PORT}",
            "--entrypoints.loopback.http.tls=true",
            f"--entrypoints.ping.address={LOOPBACK}:{PING_PORT}",
            "--ping=true",
            "--ping.entrypoint=ping",
            # A long generation, or a long prompt on its way in, must not be cut off.
            "--entrypoints.web.transport.respondingtimeouts.readtimeout=0",
            "--entrypoints.loopback.transport.respondingtimeouts.readtimeout=0",
            f"--providers.file.filename={routes}",
            "--providers.kubernetesgateway=true",
            "--providers.kubernetesgateway.throttleduration=200ms",
            f"--providers.kubernetesgateway.statusaddress.ip={HOST_ADDRESS}",
            "--providers.providersthrottleduration=200ms",
        ),
        environment={"KUBECONFIG": str(kubeconfig)},
        files={
            kubeconfig: client_kubeconfig(pki, "traefik"),
            routes: json.dumps(loopback_route(), indent=2),
        },
        addresses=((HOST_ADDRESS, GATEWAY_PORT), (LOOPBACK, GATEWAY_PORT), (LOOPBACK, PING_PORT)),
        is_healthy=lambda: answers(f"http://{LOOPBACK}:{PING_PORT}/ping"),
    )


def loopback_route() -> dict[str, object]:
    """Passes every byte of the loopback entry point on to the other one, whatever is spoken: HTTP/1.1, h2c, gRPC."""
    return {
        "tcp": {
            "routers": {"loopback": {"entryPoints": ["loopback"], "rule": "HostSNI(`*`)", "service": "web"}},
            "services": {"web": {"loadBalancer": {"servers": [{"address": f"{HOST_ADDRESS}:{GATEWAY_PORT}"}]}}},
        }
    }


def gateway_objects() -> list[dict[str, object]]:
    """The GatewayClass, the Gateway for every namespace's routes, and what Traefik may read."""
    kinds = ["gatewayclasses", "gateways", "httproutes", "grpcroutes"]
    return [
        {
            "apiVersion": f"{API_GROUP}/v1",
            "kind": "GatewayClass",
            "metadata": {"name": GATEWAY_CLASS},
            "spec": {"controllerName": "traefik.io/gateway-controller"},
        },
        {
            "apiVersion": f"{API_GROUP}/v1",
            "kind": "Gateway",
            "metadata": {"name": GATEWAY, "namespace": NAMESPACE},
            "spec": {
                "gatewayClassName": GATEWAY_CLASS,
                "listeners": [
                    {
                        "name": "http",
                        "protocol": "HTTP",
                        "port": GATEWAY_PORT,
                        "allowedRoutes": {"namespaces": {"from": "All"}},
                    }
                ],
            },
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": USER},
            "rules": [
                {"apiGroups": [""], "resources": ["namespaces"], "verbs": ["list", "watch"]},
                {
                    "apiGroups": [""],
                    "resources": ["services", "secrets", "configmaps"],
                    "verbs": ["get", "list", "watch"],
                },
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
                {"apiGroups": [API_GROUP], "resources": [*kinds, "referencegrants"], "verbs": ["get", "list", "watch"]},
                {"apiGroups": [API_GROUP], "resources": [f"{kind}/status" for kind in kinds], "verbs": ["update"]},
            ],
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRoleBinding",
            "metadata": {"name": USER},
            "roleRef": {"apiGroup": "rbac.authorization.k8s.io", "kind": "ClusterRole", "name": USER},
            "subjects": [{"apiGroup": "rbac.authorization.k8s.io", "kind": "User", "name": USER}],
        },
    ]
