"""The cluster's DNS: CoreDNS as a process of the host, behind the Service that pods know.

As a process it needs no image, reads the host's own resolv.conf, and is there before the first pod. It answers for the
ingress domain as well, so that a pod can ask a model by the host name that KServe gives it.
"""

from pathlib import Path

from localcluster.component import Component, ToolPath, answers
from localcluster.kubeconfig import client_kubeconfig
from localcluster.paths import (
    CLUSTER_DOMAIN,
    CONTEXT_NAME,
    DNS_SERVICE_ADDRESS,
    HOST_ADDRESS,
    INGRESS_DOMAIN,
    Paths,
)
from localcluster.pki import Pki

LOOPBACK = "127.0.0.1"
READY_PORT = 8181
USER = "system:coredns"


def coredns(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    kubeconfig, config = paths.config / "coredns.kubeconfig", paths.config / "Corefile"
    return Component(
        name="coredns",
        argv=(str(tool("coredns")), "-conf", str(config)),
        files={
            kubeconfig: client_kubeconfig(pki, "coredns"),
            config: corefile(kubeconfig, Path("/etc/resolv.conf").read_text()),
        },
        addresses=((HOST_ADDRESS, 53), (LOOPBACK, READY_PORT)),
        is_healthy=lambda: answers(f"http://{LOOPBACK}:{READY_PORT}/ready"),
    )


def corefile(kubeconfig: Path, resolv_conf: str) -> str:
    """CoreDNS's configuration. Names from outside are forwarded only where the host has a name server."""
    has_upstream = any(line.split()[:1] == ["nameserver"] for line in resolv_conf.splitlines())
    forward = "\n    forward . /etc/resolv.conf" if has_upstream else ""
    return f""".:53 {{
    bind {HOST_ADDRESS}
    errors
    ready {LOOPBACK}:{READY_PORT}
    kubernetes {CLUSTER_DOMAIN} in-addr.arpa ip6.arpa {{
        kubeconfig {kubeconfig} {CONTEXT_NAME}
        fallthrough in-addr.arpa ip6.arpa
        ttl 5
    }}
    template IN A {INGRESS_DOMAIN} {{
        answer "{{{{ .Name }}}} 60 IN A {HOST_ADDRESS}"
    }}
    template IN AAAA {INGRESS_DOMAIN} {{
        rcode NOERROR
    }}{forward}
    cache 5
}}
"""


def dns_objects() -> list[dict[str, object]]:
    """The Service of the cluster's DNS with its endpoint on the host, and what CoreDNS may read."""
    ports = [
        {"name": name, "port": 53, "protocol": protocol} for name, protocol in (("dns", "UDP"), ("dns-tcp", "TCP"))
    ]
    return [
        {
            "apiVersion": "v1",
            "kind": "Service",
            "metadata": {"name": "kube-dns", "namespace": "kube-system", "labels": {"k8s-app": "kube-dns"}},
            "spec": {"clusterIP": DNS_SERVICE_ADDRESS, "ports": ports},
        },
        {
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": "kube-dns-host",
                "namespace": "kube-system",
                "labels": {"kubernetes.io/service-name": "kube-dns"},
            },
            "addressType": "IPv4",
            "endpoints": [{"addresses": [HOST_ADDRESS], "conditions": {"ready": True}}],
            "ports": ports,
        },
        {
            "apiVersion": "rbac.authorization.k8s.io/v1",
            "kind": "ClusterRole",
            "metadata": {"name": USER},
            "rules": [
                {"apiGroups": [""], "resources": ["services", "pods", "namespaces"], "verbs": ["list", "watch"]},
                {"apiGroups": ["discovery.k8s.io"], "resources": ["endpointslices"], "verbs": ["list", "watch"]},
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
