"""Kubeconfigs with embedded certificates, readable by their owner only."""

import base64
import json
from pathlib import Path

from localcluster.paths import APISERVER_PORT, CONTEXT_NAME, HOST_ADDRESS
from localcluster.pki import KeyPair, Pki, write_private

SERVER = f"https://{HOST_ADDRESS}:{APISERVER_PORT}"


def kubeconfig(user: str, authority: Path, client: KeyPair) -> str:
    """The file's text (JSON is YAML): one cluster, one user, one context."""

    def embedded(path: Path) -> str:
        return base64.b64encode(path.read_bytes()).decode()

    document = {
        "apiVersion": "v1",
        "kind": "Config",
        "clusters": [
            {"name": CONTEXT_NAME, "cluster": {"server": SERVER, "certificate-authority-data": embedded(authority)}}
        ],
        "users": [
            {
                "name": user,
                "user": {
                    "client-certificate-data": embedded(client.certificate),
                    "client-key-data": embedded(client.key),
                },
            }
        ],
        "contexts": [{"name": CONTEXT_NAME, "context": {"cluster": CONTEXT_NAME, "user": user}}],
        "current-context": CONTEXT_NAME,
    }
    return json.dumps(document, indent=2) + "\n"


def client_kubeconfig(pki: Pki, client: str) -> str:
    """The text for one of the cluster's own clients, by the name of its certificate."""
    return kubeconfig(client, pki.authority.certificate, pki.pair(client))


def ensure_admin_kubeconfig(path: Path, pki: Pki) -> None:
    """Writes the admin's kubeconfig, mode 0600, where it is missing, differs, or others could read it."""
    text = client_kubeconfig(pki, "admin").encode()
    if not (path.exists() and path.read_bytes() == text and path.stat().st_mode & 0o777 == 0o600):
        write_private(path, text)
