"""The S3 endpoint as a component: versitygw on a directory of the cache, so that finished artifacts outlive the cluster."""

import configparser
import secrets

from localcluster.component import Component, ToolPath, answers
from localcluster.paths import HOST_ADDRESS, S3_PORT, S3_REGION, Paths
from localcluster.pki import write_private

LOOPBACK = "127.0.0.1"
# Buckets belong to the key's id, so it is the same in every state; the secret is each state's own.
ACCESS_KEY_ID = "LLMSERVINGLOCALSTACK"


def s3(paths: Paths, tool: ToolPath) -> Component:
    credentials = configparser.ConfigParser()
    credentials.read(paths.s3_credentials)
    paths.store.mkdir(parents=True, exist_ok=True)
    return Component(
        name="s3",
        argv=(
            str(tool("versitygw")),
            f"--port={LOOPBACK}:{S3_PORT}",
            f"--port={HOST_ADDRESS}:{S3_PORT}",
            f"--region={S3_REGION}",
            "--health=/health",
            "--keep-alive",
            "--quiet",
            "posix",
            str(paths.store),
        ),
        environment={
            "ROOT_ACCESS_KEY_ID": credentials["default"]["aws_access_key_id"],
            "ROOT_SECRET_ACCESS_KEY": credentials["default"]["aws_secret_access_key"],
        },
        addresses=((LOOPBACK, S3_PORT), (HOST_ADDRESS, S3_PORT)),
        is_healthy=lambda: answers(f"http://{LOOPBACK}:{S3_PORT}/health"),
    )


def ensure_s3_credentials(paths: Paths) -> None:
    """Makes this state's key pair where there is none: an AWS shared-credentials file, mode 0600."""
    if not paths.s3_credentials.exists():
        text = f"[default]\naws_access_key_id = {ACCESS_KEY_ID}\naws_secret_access_key = {secrets.token_hex(20)}\n"
        write_private(paths.s3_credentials, text.encode())
