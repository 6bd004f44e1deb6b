"""The components as they are described: where they listen, what their configuration says, what restarts them."""

import json
import tomllib
from dataclasses import replace
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any, ClassVar

import pytest

from localcluster import kserve
from localcluster.cgroups import enable_controllers, hierarchies
from localcluster.cluster import Cluster
from localcluster.component import Component
from localcluster.containerd import containerd_configuration
from localcluster.dns import corefile, dns_objects
from localcluster.down import mounts_below
from localcluster.environment import shell_lines, variables
from localcluster.gateway import gateway_objects, loopback_route
from localcluster.paths import VOLUMES, Paths, default_paths
from localcluster.status import Row, as_json, as_table

TOOLS = Path("/tools")


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Cluster:
    root = tmp_path_factory.mktemp("cluster")
    made = Cluster(Paths(cache=root / "cache", state=root / "state"))
    made.prepare()
    return made


@pytest.fixture(scope="module")
def components(cluster: Cluster) -> dict[str, Component]:
    waves = cluster.waves(lambda name: TOOLS / name, "localhost/llm-serving/pause:1")
    return {component.name: component for wave in waves for component in wave}


class TestWhereTheyListen:
    def test_on_loopback_and_the_bridge_only(self, components: dict[str, Component]) -> None:
        bridge = ip_network("10.254.0.0/24")
        for component in components.values():
            for host, _ in component.addresses:
                assert ip_address(host).is_loopback or ip_address(host) in bridge, component.name

    def test_no_two_on_the_same_address(self, components: dict[str, Component]) -> None:
        addresses = [address for component in components.values() for address in component.addresses]
        assert len(addresses) == len(set(addresses))

    def test_no_configuration_names_every_address(self, components: dict[str, Component]) -> None:
        for component in components.values():
            for text in (*component.argv, *component.files.values()):
                assert "0.0.0.0:" not in text and "[::]" not in text, component.name


class TestSecretsStayPrivate:
    def test_no_key_is_on_a_command_line(self, cluster: Cluster, components: dict[str, Component]) -> None:
        secrets = [cluster.paths.hub_token.read_text().strip()]
        secrets.append(cluster.paths.s3_credentials.read_text().split()[-1])
        for component in components.values():
            assert not any(secret in argument for secret in secrets for argument in component.argv)

    def test_what_prepare_writes_is_for_its_owner_only(self, cluster: Cluster) -> None:
        paths = cluster.paths
        for path in (paths.kubeconfig, paths.s3_credentials, paths.hub_token):
            assert path.stat().st_mode & 0o777 == 0o600, path
        assert paths.state.stat().st_mode & 0o777 == 0o700

    def test_configuration_files_are_too(self, components: dict[str, Component]) -> None:
        for component in components.values():
            component.write_files()
            assert all(path.stat().st_mode & 0o777 == 0o600 for path in component.files), component.name

    def test_the_nodes_volumes_are_for_every_job(self, cluster: Cluster) -> None:
        for volume in (cluster.paths.work_volume, cluster.paths.models_volume):
            assert volume.stat().st_mode & 0o7777 == 0o1777, volume


class TestPreparedTwice:
    def test_credentials_and_commands_stay(self, cluster: Cluster, components: dict[str, Component]) -> None:
        before = {name: component.argv for name, component in components.items()}
        secrets = cluster.paths.s3_credentials.read_text(), cluster.paths.hub_token.read_text()
        cluster.prepare()
        waves = cluster.waves(lambda name: TOOLS / name, "localhost/llm-serving/pause:1")
        assert {component.name: component.argv for wave in waves for component in wave} == before
        assert (cluster.paths.s3_credentials.read_text(), cluster.paths.hub_token.read_text()) == secrets

    def test_a_changed_file_is_another_command(self, components: dict[str, Component]) -> None:
        kubelet = components["kubelet"]
        kubelet.write_files()
        before = kubelet.command.fingerprint()
        config = next(path for path in kubelet.files if path.name == "kubelet.json")
        changed = replace(kubelet, files={**kubelet.files, config: kubelet.files[config] + " "})
        changed.write_files()
        assert changed.command.fingerprint() != before


class TestNode:
    @pytest.mark.parametrize("can_lower", [True, False])
    def test_containerd_keeps_to_the_state(self, cluster: Cluster, can_lower: bool) -> None:
        text = containerd_configuration(
            cluster.paths, runc=Path("/r"), plugins=Path("/p"), pause_image="i", can_lower_oom=can_lower
        )
        config = tomllib.loads(text)
        state = str(cluster.paths.state)
        assert all(place.startswith(state) for place in (config["state"], config["grpc"]["address"]))
        assert config["root"] == str(cluster.paths.cache / "containerd")
        runtime = config["plugins"]["io.containerd.grpc.v1.cri"]
        assert runtime["restrict_oom_score_adj"] is not can_lower
        assert runtime["stream_server_address"] == "127.0.0.1"

    def test_the_kubelet_takes_both_cgroup_versions_and_reserves_nothing(
        self, components: dict[str, Component]
    ) -> None:
        files = components["kubelet"].files
        config = json.loads(next(text for path, text in files.items() if path.name == "kubelet.json"))
        assert config["failCgroupV1"] is False
        assert not {"systemReserved", "kubeReserved", "reservedSystemCPUs"} & set(config)

    def test_every_cgroup_hierarchy_is_found(self) -> None:
        mountinfo = (
            "30 24 0:26 / /sys/fs/cgroup ro - tmpfs tmpfs ro\n"
            "31 30 0:27 / /sys/fs/cgroup/unified rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
            "32 30 0:28 / /sys/fs/cgroup/memory rw - cgroup cgroup rw,memory\n"
        )
        assert hierarchies(mountinfo) == [Path("/sys/fs/cgroup/memory"), Path("/sys/fs/cgroup/unified")]

    def test_a_version_2_hierarchy_hands_its_controllers_on(self, tmp_path: Path) -> None:
        (tmp_path / "cgroup.controllers").write_text("cpuset cpu io memory pids rdma misc\n")
        enabled = tmp_path / "cgroup.subtree_control"
        enabled.write_text("cpu memory pids\n")
        enable_controllers(tmp_path)
        assert enabled.read_text() == "+cpuset +io"

    def test_a_hierarchy_without_any_is_left_alone(self, tmp_path: Path) -> None:
        enable_controllers(tmp_path)
        assert list(tmp_path.iterdir()) == []
        for name in ("cgroup.controllers", "cgroup.subtree_control"):
            (tmp_path / name).write_text("\n")
        enable_controllers(tmp_path)
        assert (tmp_path / "cgroup.subtree_control").read_text() == "\n"

    def test_the_last_mounted_is_unmounted_first(self) -> None:
        mountinfo = (
            "30 24 0:26 / /state/a rw - tmpfs tmpfs rw\n"
            "31 30 0:27 / /state/a/with\\040space rw - tmpfs tmpfs rw\n"
            "32 30 0:28 / /stateful rw - tmpfs tmpfs rw\n"
        )
        assert mounts_below(Path("/state"), mountinfo) == [Path("/state/a/with space"), Path("/state/a")]


class TestTheStores:
    def test_pods_and_the_host_meet_the_gcs_endpoint_at_one_address(
        self, cluster: Cluster, components: dict[str, Component]
    ) -> None:
        gcs = components["gcs"]
        ((host, port),) = gcs.addresses
        url = f"http://{host}:{port}"
        assert url == "http://10.254.0.1:9001"
        # The server sends clients on to an address of its own for uploads in parts and for listed objects.
        assert {f"-external-url={url}", f"-public-host={host}:{port}"} < set(gcs.argv)
        container = kserve.storage_container("localhost/initializer:1")["spec"]["container"]
        assert container["env"] == [{"name": "STORAGE_EMULATOR_HOST", "value": url}]
        assert variables(cluster.paths, [], {})["STORAGE_EMULATOR_HOST"] == url

    def test_finished_artifacts_outlive_the_cluster(self, cluster: Cluster, components: dict[str, Component]) -> None:
        assert str(cluster.paths.store) in components["s3"].argv
        assert f"-filesystem-root={cluster.paths.gcs_store}" in components["gcs"].argv
        for store in (cluster.paths.store, cluster.paths.gcs_store):
            assert store.is_relative_to(cluster.paths.cache)
        assert cluster.paths.store != cluster.paths.gcs_store

    def test_the_gcs_endpoint_first_removes_what_a_killed_one_left(self, components: dict[str, Component]) -> None:
        argv = components["gcs"].argv
        folder = next(argument for argument in argv if argument.startswith("-filesystem-root=")).split("=")[1]
        assert argv[1:5] == ("-m", "localcluster.gcs_endpoint", folder, str(TOOLS / "fake-gcs-server"))


class TestNames:
    def test_pods_find_the_models_by_their_hosts(self) -> None:
        assert 'template IN A llm.localhost {\n        answer "{{ .Name }} 60 IN A 10.254.0.1"' in corefile(
            Path("/k"), ""
        )

    def test_names_from_outside_are_asked_only_where_there_is_a_server(self) -> None:
        assert "forward . /etc/resolv.conf" in corefile(Path("/k"), "search x\nnameserver 192.0.2.53\n")
        assert "forward" not in corefile(Path("/k"), "# nameserver 192.0.2.53\n")

    def test_the_service_has_its_endpoint_on_the_host(self) -> None:
        service, endpoints = dns_objects()[:2]
        assert service["spec"] == {"clusterIP": "10.96.0.10", "ports": endpoints["ports"]}
        assert endpoints["endpoints"] == [{"addresses": ["10.254.0.1"], "conditions": {"ready": True}}]


class TestGateway:
    def test_the_loopback_passes_on_to_the_listener_of_the_gateway(self) -> None:
        gateway: Any = gateway_objects()[1]
        (port,) = [listener["port"] for listener in gateway["spec"]["listeners"]]
        route: Any = loopback_route()
        assert route["tcp"]["services"]["web"]["loadBalancer"]["servers"] == [{"address": f"10.254.0.1:{port}"}]

    def test_the_loopbacks_entry_point_is_passed_over_for_http(self, components: dict[str, Component]) -> None:
        assert "--entrypoints.loopback.http.tls=true" in components["traefik"].argv


class TestKServe:
    CONFIG: ClassVar[dict[str, Any]] = {
        "kind": "ConfigMap",
        "metadata": {"name": "inferenceservice-config", "namespace": "kserve"},
        "data": {
            "_example": "long",
            "deploy": '{"defaultDeploymentMode": "Serverless"}',
            "ingress": '{"enableGatewayApi": false, "ingressGateway": "needed/even-so", "ingressDomain": "example.com"}',
            "storageInitializer": '{"image": "elsewhere/initializer", "memoryLimit": "1Gi"}',
            "inferenceService": "{}",
            "agent": '{"image": "elsewhere/agent"}',
        },
    }
    UPSTREAM: tuple[dict[str, Any], ...] = (
        CONFIG,
        {"kind": "Certificate", "metadata": {"name": "serving-cert"}},
        {"kind": "Secret", "metadata": {"name": "kserve-webhook-server-secret"}},
        {
            "kind": "ValidatingWebhookConfiguration",
            "metadata": {
                "name": "w",
                "annotations": {"cert-manager.io/inject-ca-from": "x"},
                "creationTimestamp": None,
            },
            "webhooks": [{"name": "one", "clientConfig": {"service": {"name": "s"}}}],
        },
        {
            "kind": "Deployment",
            "metadata": {"name": "kserve-controller-manager", "namespace": "kserve"},
            "spec": {
                "template": {
                    "metadata": {"labels": {"a": "b"}},
                    "spec": {
                        "serviceAccountName": "kserve-controller-manager",
                        "containers": [
                            {"name": "kube-rbac-proxy", "image": "elsewhere/proxy"},
                            {"name": "manager", "image": "elsewhere/manager", "args": ["--leader-elect"]},
                        ],
                    },
                }
            },
        },
        {
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "tlsroutes"},
            "spec": {"group": "gateway.networking.k8s.io", "names": {"kind": "TLSRoute"}},
        },
        {
            "kind": "CustomResourceDefinition",
            "metadata": {"name": "httproutes"},
            "spec": {"group": "gateway.networking.k8s.io", "names": {"kind": "HTTPRoute"}},
        },
    )

    def objects(self, cluster: Cluster) -> dict[str, dict[str, Any]]:
        made = kserve.kserve_objects(self.UPSTREAM, cluster.pki, "localhost/controller:1", "localhost/initializer:1")
        return {f"{item['kind']} {item['metadata']['name']}": item for item in made}

    def test_what_needs_cert_manager_or_a_proxy_is_left_out(self, cluster: Cluster) -> None:
        assert set(self.objects(cluster)) == {
            "Namespace kserve",
            "ConfigMap inferenceservice-config",
            "Secret kserve-webhook-server-cert",
            "ClusterStorageContainer default",
            "ValidatingWebhookConfiguration w",
            "Deployment kserve-controller-manager",
            "CustomResourceDefinition httproutes",
        }

    def test_the_webhooks_trust_our_authority(self, cluster: Cluster) -> None:
        made = self.objects(cluster)["ValidatingWebhookConfiguration w"]
        assert made["metadata"] == {"name": "w", "annotations": {}}
        assert made["webhooks"][0]["clientConfig"]["service"] == {"name": "s"}
        assert made["webhooks"][0]["clientConfig"]["caBundle"]

    def test_the_controller_runs_alone_from_our_image(self, cluster: Cluster) -> None:
        pod = self.objects(cluster)["Deployment kserve-controller-manager"]["spec"]["template"]["spec"]
        assert pod["serviceAccountName"] == "kserve-controller-manager"
        (manager,) = pod["containers"]
        assert (manager["image"], manager["imagePullPolicy"]) == ("localhost/controller:1", "IfNotPresent")
        assert "--leader-elect" not in manager["args"]

    def test_the_upstream_objects_are_left_as_they_are(self, cluster: Cluster) -> None:
        before = json.dumps(self.UPSTREAM)
        self.objects(cluster)
        assert json.dumps(self.UPSTREAM) == before

    def test_standard_mode_routes_through_the_gateway(self) -> None:
        data = kserve.inference_service_config(self.CONFIG, "localhost/initializer:1")["data"]
        assert json.loads(data["deploy"]) == {"defaultDeploymentMode": "Standard"}
        ingress = json.loads(data["ingress"])
        assert ingress["enableGatewayApi"] is True
        assert ingress["kserveIngressGateway"] == "kserve/kserve-ingress-gateway"
        assert ingress["ingressDomain"] == "llm.localhost"
        assert json.loads(data["storageInitializer"])["image"] == "localhost/initializer:1"

    def test_the_rest_of_the_configuration_is_upstreams(self) -> None:
        data = kserve.inference_service_config(self.CONFIG, "localhost/initializer:1")["data"]
        assert json.loads(data["ingress"])["ingressGateway"] == "needed/even-so"
        assert data["agent"] == self.CONFIG["data"]["agent"]
        assert "_example" not in data


class TestWhereThingsAre:
    def test_own_variables_come_before_the_desktops(self) -> None:
        paths = default_paths({"HOME": "/home/u", "LLM_SERVING_CACHE": "/c", "XDG_STATE_HOME": "/s"})
        assert paths == Paths(cache=Path("/c"), state=Path("/s/llm-serving"), volumes=VOLUMES)

    def test_without_any_they_are_below_home(self) -> None:
        paths = default_paths({"HOME": "/home/u"})
        expected = Paths(
            cache=Path("/home/u/.cache/llm-serving"), state=Path("/home/u/.local/state/llm-serving"), volumes=VOLUMES
        )
        assert paths == expected

    def test_a_shell_gets_them_quoted(self) -> None:
        assert shell_lines({"A": "/with space", "B": "x"}) == "export A='/with space'\nexport B=x"

    def test_built_tools_come_first_and_only_once(self) -> None:
        paths = Paths(cache=Path("/c"), state=Path("/s"))
        first = variables(paths, [Path("/tools/bin")], {"PATH": "/usr/bin:/bin"})
        again = variables(paths, [Path("/tools/bin")], first)
        assert first["PATH"].split(":")[1:] == ["/tools/bin", "/usr/bin", "/bin"]
        assert again["PATH"] == first["PATH"]
        assert first["KUBECONFIG"] == "/s/cluster/kubeconfig"


class TestStatus:
    UP = Row(name="etcd", pid=7, addresses=("127.0.0.1:2379",), listens=True, healthy=True, since=0.0)
    DEAF = Row(name="s3", pid=8, addresses=("127.0.0.1:9000",), listens=False, healthy=True, since=0.0)

    def test_a_port_that_nobody_listens_on_stands_out(self) -> None:
        header, up, deaf = as_table([self.UP, self.DEAF]).splitlines()
        assert header.split() == ["COMPONENT", "PID", "LISTENING", "HEALTHY", "SINCE"]
        assert up.split()[:4] == ["etcd", "7", "127.0.0.1:2379", "yes"]
        assert "NO (127.0.0.1:9000)" in deaf

    def test_it_is_up_only_if_it_listens_and_answers(self) -> None:
        assert [row["up"] for row in json.loads(as_json([self.UP, self.DEAF, replace(self.UP, healthy=False)]))] == [
            True,
            False,
            False,
        ]
