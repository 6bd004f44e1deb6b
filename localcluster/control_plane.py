"""etcd and the Kubernetes control plane, as processes of the host.

No leader election: there is one of each, and a lease left over from a killed one would delay its successor by 15 s.
"""

from localcluster.component import Component, ToolPath, answers
from localcluster.kubeconfig import client_kubeconfig
from localcluster.paths import APISERVER_PORT, CLUSTER_DOMAIN, HOST_ADDRESS, SERVICE_CIDR, Paths
from localcluster.pki import Pki

LOOPBACK = "127.0.0.1"
ETCD_PORT = 2379
ETCD_PEER_PORT = 2380
ETCD_HEALTH_PORT = 2381
CONTROLLER_MANAGER_PORT = 10257
SCHEDULER_PORT = 10259


def etcd(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    server = pki.pair("etcd")
    clients, peers = f"https://{LOOPBACK}:{ETCD_PORT}", f"http://{LOOPBACK}:{ETCD_PEER_PORT}"
    health = f"http://{LOOPBACK}:{ETCD_HEALTH_PORT}"
    return Component(
        name="etcd",
        argv=(
            str(tool("etcd")),
            "--name=local",
            f"--data-dir={paths.etcd}",
            f"--listen-client-urls={clients}",
            f"--advertise-client-urls={clients}",
            f"--listen-peer-urls={peers}",
            f"--initial-advertise-peer-urls={peers}",
            f"--initial-cluster=local={peers}",
            f"--listen-metrics-urls={health}",
            f"--cert-file={server.certificate}",
            f"--key-file={server.key}",
            f"--trusted-ca-file={pki.authority.certificate}",
            "--client-cert-auth=true",
            "--log-level=warn",
        ),
        reads=(server.certificate, pki.authority.certificate),
        addresses=((LOOPBACK, ETCD_PORT), (LOOPBACK, ETCD_PEER_PORT), (LOOPBACK, ETCD_HEALTH_PORT)),
        is_healthy=lambda: answers(f"{health}/readyz"),
    )


def apiserver(pki: Pki, tool: ToolPath) -> Component:
    server, etcd_client, kubelet_client = (
        pki.pair(name) for name in ("apiserver", "apiserver-etcd-client", "apiserver-kubelet-client")
    )
    return Component(
        name="kube-apiserver",
        argv=(
            str(tool("kube-apiserver")),
            f"--bind-address={HOST_ADDRESS}",
            f"--advertise-address={HOST_ADDRESS}",
            f"--secure-port={APISERVER_PORT}",
            f"--service-cluster-ip-range={SERVICE_CIDR}",
            "--authorization-mode=Node,RBAC",
            "--enable-admission-plugins=NodeRestriction",
            "--allow-privileged=true",
            "--profiling=false",
            f"--client-ca-file={pki.authority.certificate}",
            # Nobody holds a certificate of this name: there are no aggregated APIs, but the others look for the setting.
            f"--requestheader-client-ca-file={pki.authority.certificate}",
            "--requestheader-allowed-names=front-proxy",
            "--requestheader-username-headers=X-Remote-User",
            "--requestheader-group-headers=X-Remote-Group",
            "--requestheader-extra-headers-prefix=X-Remote-Extra-",
            f"--tls-cert-file={server.certificate}",
            f"--tls-private-key-file={server.key}",
            f"--etcd-servers=https://{LOOPBACK}:{ETCD_PORT}",
            f"--etcd-cafile={pki.authority.certificate}",
            f"--etcd-certfile={etcd_client.certificate}",
            f"--etcd-keyfile={etcd_client.key}",
            f"--kubelet-certificate-authority={pki.authority.certificate}",
            f"--kubelet-client-certificate={kubelet_client.certificate}",
            f"--kubelet-client-key={kubelet_client.key}",
            "--kubelet-preferred-address-types=InternalIP",
            f"--service-account-issuer=https://kubernetes.default.svc.{CLUSTER_DOMAIN}",
            f"--service-account-key-file={pki.service_account_public_key}",
            f"--service-account-signing-key-file={pki.service_account_key}",
        ),
        reads=(
            pki.authority.certificate,
            pki.service_account_public_key,
            server.certificate,
            etcd_client.certificate,
            kubelet_client.certificate,
        ),
        addresses=((HOST_ADDRESS, APISERVER_PORT),),
        is_healthy=lambda: answers(
            f"https://{HOST_ADDRESS}:{APISERVER_PORT}/readyz", authority=pki.authority.certificate
        ),
    )


def controller_manager(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    kubeconfig = paths.config / "kube-controller-manager.kubeconfig"
    return Component(
        name="kube-controller-manager",
        files={kubeconfig: client_kubeconfig(pki, "kube-controller-manager")},
        argv=(
            str(tool("kube-controller-manager")),
            f"--bind-address={LOOPBACK}",
            f"--secure-port={CONTROLLER_MANAGER_PORT}",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--use-service-account-credentials=true",
            f"--service-account-private-key-file={pki.service_account_key}",
            f"--root-ca-file={pki.authority.certificate}",
            f"--cluster-signing-cert-file={pki.authority.certificate}",
            f"--cluster-signing-key-file={pki.authority.key}",
            # A claim that is made just after its volume is bound in the next round of this period (default 15 s).
            "--pvclaimbinder-sync-period=1s",
            "--profiling=false",
        ),
        reads=(pki.authority.certificate, pki.service_account_public_key),
        addresses=((LOOPBACK, CONTROLLER_MANAGER_PORT),),
        is_healthy=lambda: answers(f"https://{LOOPBACK}:{CONTROLLER_MANAGER_PORT}/healthz"),
    )


def scheduler(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    kubeconfig = paths.config / "kube-scheduler.kubeconfig"
    return Component(
        name="kube-scheduler",
        files={kubeconfig: client_kubeconfig(pki, "kube-scheduler")},
        argv=(
            str(tool("kube-scheduler")),
            f"--bind-address={LOOPBACK}",
            f"--secure-port={SCHEDULER_PORT}",
            f"--kubeconfig={kubeconfig}",
            f"--authentication-kubeconfig={kubeconfig}",
            f"--authorization-kubeconfig={kubeconfig}",
            "--leader-elect=false",
            "--profiling=false",
        ),
        addresses=((LOOPBACK, SCHEDULER_PORT),),
        is_healthy=lambda: answers(f"https://{LOOPBACK}:{SCHEDULER_PORT}/healthz"),
    )
