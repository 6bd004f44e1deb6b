"""The node: the kubelet and kube-proxy, as processes of the host."""

import json

from localcluster import cgroups
from localcluster.component import Component, ToolPath, answers
from localcluster.kubeconfig import client_kubeconfig
from localcluster.paths import CLUSTER_DOMAIN, DNS_SERVICE_ADDRESS, HOST_ADDRESS, NODE_NAME, POD_CIDR, Paths
from localcluster.pki import Pki

LOOPBACK = "127.0.0.1"
KUBELET_PORT = 10250
KUBELET_HEALTH_PORT = 10248
KUBE_PROXY_METRICS_PORT = 10249
KUBE_PROXY_HEALTH_PORT = 10256


def kubelet(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    kubeconfig = paths.config / "kubelet.kubeconfig"
    server = pki.pair("kubelet-server")
    config = paths.config / "kubelet.json"
    return Component(
        name="kubelet",
        argv=(
            str(tool("kubelet")),
            f"--config={config}",
            f"--kubeconfig={kubeconfig}",
            f"--root-dir={paths.kubelet}",
            f"--hostname-override={NODE_NAME}",
            f"--node-ip={HOST_ADDRESS}",
        ),
        files={
            config: json.dumps(kubelet_configuration(paths, pki), indent=2),
            kubeconfig: client_kubeconfig(pki, "kubelet"),
        },
        reads=(server.certificate, pki.authority.certificate),
        addresses=((HOST_ADDRESS, KUBELET_PORT), (LOOPBACK, KUBELET_HEALTH_PORT)),
        is_healthy=lambda: answers(f"http://{LOOPBACK}:{KUBELET_HEALTH_PORT}/healthz"),
    )


def kubelet_configuration(paths: Paths, pki: Pki) -> dict[str, object]:
    """A KubeletConfiguration. Nothing is reserved for the system: two cores must do for the pods.

    Thresholds are absolute: percentages of a laptop's disk would evict pods, or collect images, with plenty of it free.
    """
    server = pki.pair("kubelet-server")
    return {
        "apiVersion": "kubelet.config.k8s.io/v1beta1",
        "kind": "KubeletConfiguration",
        "address": HOST_ADDRESS,
        "port": KUBELET_PORT,
        "healthzBindAddress": LOOPBACK,
        "healthzPort": KUBELET_HEALTH_PORT,
        "tlsCertFile": str(server.certificate),
        "tlsPrivateKeyFile": str(server.key),
        "authentication": {
            "anonymous": {"enabled": False},
            "webhook": {"enabled": True},
            "x509": {"clientCAFile": str(pki.authority.certificate)},
        },
        "authorization": {"mode": "Webhook"},
        "containerRuntimeEndpoint": f"unix://{paths.containerd_socket}",
        "cgroupDriver": "cgroupfs",
        "cgroupRoot": f"/{cgroups.ROOT}",
        "failCgroupV1": False,
        "failSwapOn": False,
        "makeIPTablesUtilChains": False,
        "clusterDNS": [DNS_SERVICE_ADDRESS],
        "clusterDomain": CLUSTER_DOMAIN,
        "resolvConf": "/etc/resolv.conf",
        "podLogsDir": str(paths.pod_logs),
        "volumePluginDir": str(paths.kubelet / "volume-plugins"),
        "evictionHard": {
            "memory.available": "100Mi",
            "nodefs.available": "1Gi",
            "nodefs.inodesFree": "1%",
            "imagefs.available": "1Gi",
        },
        "imageGCHighThresholdPercent": 100,
        "imageGCLowThresholdPercent": 99,
        "serializeImagePulls": False,
        "oomScoreAdj": 0,
        # Faster than the defaults of a large cluster: a mounted Secret or a pod's end shows within a second or two.
        "syncFrequency": "10s",
        "nodeStatusUpdateFrequency": "5s",
    }


def kube_proxy(paths: Paths, pki: Pki, tool: ToolPath) -> Component:
    kubeconfig = paths.config / "kube-proxy.kubeconfig"
    config = paths.config / "kube-proxy.json"
    configuration = {
        "apiVersion": "kubeproxy.config.k8s.io/v1alpha1",
        "kind": "KubeProxyConfiguration",
        "mode": "nftables",
        "clientConnection": {"kubeconfig": str(kubeconfig)},
        "hostnameOverride": NODE_NAME,
        "clusterCIDR": POD_CIDR,
        "bindAddress": HOST_ADDRESS,
        "healthzBindAddress": f"{LOOPBACK}:{KUBE_PROXY_HEALTH_PORT}",
        "metricsBindAddress": f"{LOOPBACK}:{KUBE_PROXY_METRICS_PORT}",
        "nodePortAddresses": [f"{HOST_ADDRESS}/32"],
        "oomScoreAdj": 0,
        "nftables": {"minSyncPeriod": "100ms"},
        # The machine's own limits stay as they are.
        "conntrack": {"maxPerCore": 0, "min": 0, "tcpEstablishedTimeout": "0s", "tcpCloseWaitTimeout": "0s"},
    }
    return Component(
        name="kube-proxy",
        argv=(str(tool("kube-proxy")), f"--config={config}"),
        files={config: json.dumps(configuration, indent=2), kubeconfig: client_kubeconfig(pki, "kube-proxy")},
        addresses=((LOOPBACK, KUBE_PROXY_HEALTH_PORT), (LOOPBACK, KUBE_PROXY_METRICS_PORT)),
        is_healthy=lambda: answers(f"http://{LOOPBACK}:{KUBE_PROXY_HEALTH_PORT}/healthz"),
    )
