"""A private Kubernetes control plane for tests: etcd, apiserver and controller-manager on free loopback ports, no node.

Pods stay Pending, so that a test says by patching a pod's status what becomes of it.
"""

import json
import os
import secrets
import socket
import ssl
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from localcluster.toolchain import Tools

_START_S = 60.0
# What the provider's behaviour shows in: the others would only cost time.
_CONTROLLERS = (
    "garbage-collector-controller",
    "namespace-controller",
    "serviceaccount-controller",
    "job-controller",
    "deployment-controller",
    "replicaset-controller",
    "endpointslice-controller",
    "persistentvolume-binder-controller",
    "ttl-after-finished-controller",
)


def free_ports(count: int) -> list[int]:
    """Ports of the loopback interface that nobody listens on."""
    with ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for entry in sockets:
            entry.bind(("127.0.0.1", 0))
        return [entry.getsockname()[1] for entry in sockets]


@dataclass(frozen=True, kw_only=True)
class ControlPlane:
    """A running one, and how to talk to it."""

    kubeconfig: Path
    server: str
    token: str

    def request(self, method: str, path: str, body: Any = None, content_type: str = "application/json") -> Any:
        """The JSON of an answer; None for 404."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Authorization": f"Bearer {self.token}", "Content-Type": content_type}
        request = urllib.request.Request(self.server + path, data=data, method=method, headers=headers)
        context = ssl._create_unverified_context()
        try:
            with urllib.request.urlopen(request, timeout=20, context=context) as answer:
                return json.loads(answer.read() or b"null")
        except urllib.error.HTTPError as error:
            if error.code == 404:
                return None
            raise AssertionError(f"{method} {path}: {error.code} {error.read().decode()}") from None

    def get(self, path: str) -> Any:
        return self.request("GET", path)

    def merge(self, path: str, body: Any) -> Any:
        """A JSON merge patch."""
        return self.request("PATCH", path, body, "application/merge-patch+json")

    def wait_for(self, path: str, timeout_s: float = 20.0) -> Any:
        """The object or non-empty list at a path, once there is one."""
        deadline = time.monotonic() + timeout_s
        while time.monotonic() < deadline:
            found = self.get(path)
            if found is not None and found.get("items", True):
                return found
            time.sleep(0.1)
        raise AssertionError(f"nothing at {path} within {timeout_s} s")


@contextmanager
def control_plane(tools: Tools, folder: Path) -> Iterator[ControlPlane]:
    """Starts it, and ends it with the block."""
    etcd_port, peer_port, api_port, manager_port = free_ports(4)
    key, token = folder / "service-account.key", secrets.token_hex(16)
    key.write_bytes(
        rsa.generate_private_key(65537, 2048).private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )
    )
    (folder / "tokens").write_text(f'{token},admin,admin,"system:masters"\n')
    server, kubeconfig = f"https://127.0.0.1:{api_port}", folder / "kubeconfig"
    kubeconfig.write_text(
        yaml.safe_dump(
            {
                "apiVersion": "v1",
                "kind": "Config",
                "current-context": "test",
                "contexts": [{"name": "test", "context": {"cluster": "test", "user": "admin"}}],
                "clusters": [{"name": "test", "cluster": {"server": server, "insecure-skip-tls-verify": True}}],
                "users": [{"name": "admin", "user": {"token": token}}],
            }
        )
    )
    plane = ControlPlane(kubeconfig=kubeconfig, server=server, token=token)
    etcd_url, peer_url = f"http://127.0.0.1:{etcd_port}", f"http://127.0.0.1:{peer_port}"
    with ExitStack() as stack:

        def start(name: str, *arguments: str) -> subprocess.Popen[bytes]:
            log = stack.enter_context((folder / f"{name}.log").open("wb"))
            process = subprocess.Popen(
                [tools.bin(name), *arguments],
                stdout=log,
                stderr=log,
                cwd=folder,
                env={**os.environ, "HOME": str(folder)},
            )
            stack.callback(_end, process)
            return process

        start(
            "etcd",
            f"--data-dir={folder / 'etcd'}",
            f"--listen-client-urls={etcd_url}",
            f"--advertise-client-urls={etcd_url}",
            f"--listen-peer-urls={peer_url}",
            f"--initial-advertise-peer-urls={peer_url}",
            f"--initial-cluster=default={peer_url}",
            "--unsafe-no-fsync",
            "--log-level=error",
        )
        apiserver = start(
            "kube-apiserver",
            "--bind-address=127.0.0.1",
            "--advertise-address=127.0.0.1",
            f"--secure-port={api_port}",
            f"--cert-dir={folder / 'certificates'}",
            f"--etcd-servers={etcd_url}",
            f"--token-auth-file={folder / 'tokens'}",
            "--authorization-mode=RBAC",
            "--service-cluster-ip-range=10.123.0.0/24",
            "--service-account-issuer=https://kubernetes.default.svc",
            f"--service-account-key-file={key}",
            f"--service-account-signing-key-file={key}",
            "--endpoint-reconciler-type=none",
        )
        _until_ready(plane, apiserver, folder / "kube-apiserver.log")
        start(
            "kube-controller-manager",
            f"--kubeconfig={kubeconfig}",
            "--bind-address=127.0.0.1",
            f"--secure-port={manager_port}",
            f"--cert-dir={folder / 'certificates'}",
            f"--controllers={','.join(_CONTROLLERS)}",
            "--leader-elect=false",
            f"--service-account-private-key-file={key}",
        )
        plane.wait_for("/api/v1/namespaces/default/serviceaccounts/default")
        yield plane


def _until_ready(plane: ControlPlane, process: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + _START_S
    while time.monotonic() < deadline and process.poll() is None:
        try:
            plane.request("GET", "/readyz?verbose=false&exclude=etcd")
        except (OSError, AssertionError):
            time.sleep(0.2)
        except ValueError:
            return  # the answer is "ok", and no JSON
    raise AssertionError(f"the apiserver didn't come up:\n{log.read_text()[-3000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    process.terminate()
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
