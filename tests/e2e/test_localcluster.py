"""The local cluster itself: private, idempotent, repaired by `up`, and gone after `down`."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import kubernetes
import pytest

from engine_jobs.images import reference
from localcluster import cgroups, network
from localcluster.down import mounts_below, remainder, shims, unmount_below
from localcluster.lock import exclusive
from localcluster.paths import LOCK, REPOSITORY, default_paths
from localcluster.preflight import listeners
from localcluster.process import ProcessTable, start_ticks

Eventually = Callable[[Callable[[], bool], str, float], None]
PATHS = default_paths()
PROCESSES = ProcessTable(PATHS.run, PATHS.logs)
NEEDS_FROM_PODS = """
import socket, urllib.request
for url in ("http://10.254.0.1:9000/health", "http://10.254.0.1:8090/api/models"):
    assert urllib.request.urlopen(url, timeout=10).status == 200, url
for address in (("10.96.0.1", 443), ("kubernetes.default.svc", 443), ("10.254.0.1", 8888)):
    socket.create_connection(address, timeout=10).close()
assert socket.gethostbyname("any-models.llm.localhost") == "10.254.0.1"
print("all reached")
"""


def localcluster(*arguments: str, prefix: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    command = [*prefix, sys.executable, "-m", "localcluster", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, timeout=500)


def rows() -> dict[str, dict[str, Any]]:
    shown = localcluster("status", "--json")
    return {row["name"]: row for row in json.loads(shown.stdout)}


def pids() -> dict[str, int]:
    return {name: row["pid"] for name, row in rows().items() if row["pid"] is not None}


def assert_up() -> None:
    done = localcluster("up")
    assert done.returncode == 0, done.stderr
    shown = localcluster("status")
    assert shown.returncode == 0, shown.stderr


@pytest.fixture(autouse=True)
def running(environment: Mapping[str, str]) -> None:
    """Each test begins with the cluster up."""


@pytest.fixture
def repaired() -> Iterator[None]:
    """The cluster is whole again after the test, whatever became of it."""
    yield
    assert_up()


class TestPrivate:
    def test_it_listens_on_loopback_and_its_bridges_only(self) -> None:
        ours = ip_network("10.254.0.0/24")
        processes = set(pids().values())
        inodes = {inode: pid for pid in processes for inode in socket_inodes(pid)}
        found = [listener for listener in listeners() if listener.inode in inodes]
        assert len(found) > 15
        for listener in found:
            address = ip_address(str(listener.address))
            assert address.is_loopback or address in ours, f"{listener} of {inodes[listener.inode]}"

    def test_what_opens_it_is_for_its_owner_only(self) -> None:
        shown = localcluster("kubeconfig")
        assert shown.stdout.strip() == str(PATHS.kubeconfig)
        for path in (PATHS.kubeconfig, PATHS.s3_credentials, PATHS.hub_token, *PATHS.pki.glob("*.key")):
            assert path.stat().st_mode & 0o777 == 0o600, path


class TestReachable:
    def test_a_pod_reaches_what_a_job_needs(self, cluster: kubernetes.client.ApiClient) -> None:
        core = kubernetes.client.CoreV1Api(cluster)
        name = f"reach-{time.time_ns() % 10**9}"
        container = {
            "name": "reach",
            "image": reference("jobs"),
            "command": ["python3", "-c", NEEDS_FROM_PODS],
        }
        pod = {
            "metadata": {"name": name},
            "spec": {"restartPolicy": "Never", "terminationGracePeriodSeconds": 1, "containers": [container]},
        }
        core.create_namespaced_pod("default", pod)
        try:
            deadline = time.monotonic() + 120
            while (phase := core.read_namespaced_pod(name, "default").status.phase) in ("Pending", "Running"):
                assert time.monotonic() < deadline, f"the pod is still {phase}"
                time.sleep(0.5)
            assert core.read_namespaced_pod_log(name, "default").strip() == "all reached"
        finally:
            core.delete_namespaced_pod(name, "default")

    def test_the_host_reaches_services(self) -> None:
        socket.create_connection(("10.96.0.1", 443), timeout=5).close()


class TestIdempotent:
    def test_a_second_up_has_nothing_to_do(self) -> None:
        before = pids()
        done = localcluster("up")
        assert done.returncode == 0, done.stderr
        assert "every component was running already" in done.stderr, done.stderr
        assert pids() == before

    def test_up_waits_for_another_one_and_says_so(self) -> None:
        with exclusive(LOCK, "a test", lambda line: None):
            process = subprocess.Popen(
                [sys.executable, "-m", "localcluster", "up"], cwd=REPOSITORY, stderr=subprocess.PIPE, text=True
            )
            assert process.stderr is not None
            assert f"another `a test` (pid {os.getpid()}, since " in process.stderr.readline()
            assert process.poll() is None
        assert process.wait(timeout=300) == 0


@pytest.mark.usefixtures("repaired")
class TestRepaired:
    @pytest.mark.parametrize("component", ["traefik", "etcd", "kubelet", "containerd"])
    def test_a_killed_component_is_started_again(self, component: str) -> None:
        before = pids()
        os.kill(before[component], signal.SIGKILL)
        broken = localcluster("status")
        assert broken.returncode == 1
        assert f"not up: {component}" in broken.stderr
        assert_up()
        after = pids()
        assert after[component] != before[component]
        assert {name: pid for name, pid in after.items() if name != component} == {
            name: pid for name, pid in before.items() if name != component
        }

    def test_a_hung_component_is_started_again(self) -> None:
        hung = pids()["coredns"]
        os.kill(hung, signal.SIGSTOP)
        assert_up()
        assert pids()["coredns"] != hung

    def test_an_up_that_was_killed_half_way_is_finished_by_the_next(self, eventually: Eventually) -> None:
        before = pids()
        for name in ("etcd", "traefik"):
            os.kill(before[name], signal.SIGKILL)
        process = subprocess.Popen([sys.executable, "-m", "localcluster", "up"], cwd=REPOSITORY)
        eventually(lambda: PROCESSES.running("etcd") is not None, "etcd is started", 60)
        process.kill()
        process.wait()
        assert localcluster("status").returncode == 1
        assert_up()

    def test_lost_rules_and_addresses_come_back(self) -> None:
        subprocess.run(["nft", "delete", "table", "inet", network.TABLE], check=True)
        subprocess.run(["ip", "address", "flush", "dev", "llms0"], check=True)
        assert_up()
        assert network.is_complete()


@pytest.mark.usefixtures("repaired")
class TestMistakes:
    def test_a_taken_port_is_named_with_its_holder(self, eventually: Eventually) -> None:
        before = pids()
        os.kill(before["s3"], signal.SIGKILL)
        eventually(lambda: start_ticks(before["s3"]) is None, "the killed process is gone", 10)
        with socket.create_server(("127.0.0.1", 9000)):
            done = localcluster("up")
        assert done.returncode == 1
        assert "port 9000 on 127.0.0.1, which s3 needs, is taken by" in done.stderr
        assert f"(pid {os.getpid()})" in done.stderr
        assert "Traceback" not in done.stderr
        after = pids()
        assert {name: pid for name, pid in before.items() if name != "s3"} == after

    def test_another_user_is_told_to_be_root(self) -> None:
        keep = ("--inh-caps=+dac_read_search", "--ambient-caps=+dac_read_search")
        done = localcluster("up", prefix=("setpriv", "--reuid=65534", "--regid=65534", "--clear-groups", *keep))
        assert done.returncode == 1
        assert "error: the local cluster needs root" in done.stderr
        assert "Traceback" not in done.stderr

    def test_an_unknown_component_is_answered_with_the_known_ones(self) -> None:
        done = localcluster("logs", "etdc")
        assert done.returncode == 1
        assert "there is no component 'etdc': name one of containerd, coredns, etcd, gcs, hub" in done.stderr

    def test_logs_are_printed(self) -> None:
        done = localcluster("logs", "kserve-controller", "--lines", "5")
        assert done.returncode == 0, done.stderr
        assert 0 < len(done.stdout.splitlines()) <= 5

    def test_a_second_state_on_the_same_machine_is_refused(self, tmp_path_factory: pytest.TempPathFactory) -> None:
        other = ("env", "LLM_SERVING_STATE=/tmp/llms-other")
        for command in ("up", "down"):
            done = localcluster(command, prefix=other)
            assert done.returncode == 1
            assert f"a local cluster with its state in {PATHS.state} is up on this machine" in done.stderr
        assert localcluster("status").returncode == 0


@pytest.mark.destructive
class TestRestartOfTheMachine:
    """All that a restart takes with it is taken away; what is on disk stays."""

    def test_up_brings_everything_back(self, cluster: kubernetes.client.ApiClient) -> None:
        core = kubernetes.client.CoreV1Api(cluster)
        mark = {"metadata": {"name": "survives"}, "data": {"since": str(time.time())}}
        core.create_namespaced_config_map("default", mark)
        try:
            take_away_what_a_restart_takes()
            assert localcluster("status").returncode == 1
            assert_up()
            assert core.read_namespaced_config_map("survives", "default").data == mark["data"]
        finally:
            core.delete_namespaced_config_map("survives", "default")


@pytest.mark.destructive
class TestGoneAfterDown:
    def test_nothing_is_left_but_the_caches(self) -> None:
        before = json.loads((PATHS.run / "sysctls.json").read_text())["before"]
        done = localcluster("down")
        assert done.returncode == 0, done.stderr
        assert remainder(PATHS) == []
        assert not PATHS.cluster.exists()
        assert processes_that_name(str(PATHS.state)) == []
        assert not any("10.244." in line or "10.254." in line for line in routes())
        assert "cni-" not in subprocess.run(["ip", "netns"], capture_output=True, text=True, check=True).stdout
        for name, value in before.items():
            setting = Path("/proc/sys") / name.replace(".", "/")
            assert setting.read_text().strip() == value, name
        assert any(PATHS.tools.iterdir())
        assert localcluster("status").returncode == 1
        again = localcluster("down")
        assert again.returncode == 0, again.stderr


def take_away_what_a_restart_takes() -> None:
    for pid in [*pids().values(), *shims(PATHS)]:
        os.kill(pid, signal.SIGKILL)
    cgroups.remove()
    unmount_below(PATHS.cluster)
    assert mounts_below(PATHS.cluster) == []
    veths = subprocess.run(["ip", "-j", "link", "show", "type", "veth"], capture_output=True, text=True, check=True)
    names = [link["ifname"] for link in json.loads(veths.stdout or "[]") if link.get("master") == "llms-cni0"]
    for name in (*names, "llms-cni0", "llms0"):
        subprocess.run(["ip", "link", "delete", name], check=False)
    for family, table in (("inet", network.TABLE), *network.KUBE_PROXY_TABLES):
        subprocess.run(["nft", "delete", "table", family, table], check=False)
    for setting in network.SYSCTLS:
        (Path("/proc/sys") / setting.replace(".", "/")).write_text("0")


def socket_inodes(pid: int) -> set[int]:
    found = set()
    for descriptor in Path(f"/proc/{pid}/fd").iterdir():
        target = str(descriptor.readlink())
        if target.startswith("socket:["):
            found.add(int(target[8:-1]))
    return found


def processes_that_name(text: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        if int(process.name) == os.getpid():
            continue
        try:
            arguments = (process / "cmdline").read_text().replace("\0", " ")
        except OSError:
            continue
        if text in arguments:
            found.append(arguments)
    return found


def routes() -> list[str]:
    return subprocess.run(["ip", "route", "show", "table", "all"], capture_output=True, text=True).stdout.splitlines()
