"""The Hugging Face Hub endpoint as a component: it serves the models that the repository ships."""

import secrets
import sys

from localcluster.component import Component, answers
from localcluster.paths import HOST_ADDRESS, HUB_PORT, REPOSITORY, Paths
from localcluster.pki import write_private

LOOPBACK = "127.0.0.1"


def hub(paths: Paths) -> Component:
    return Component(
        name="hub",
        argv=(
            # Not sys.executable, which differs with the name (python, python3) that a command was started by.
            f"{sys.prefix}/bin/python3",
            "-m",
            "localcluster.hub",
            f"--models-dir={REPOSITORY / 'localcluster' / 'models'}",
            f"--host={LOOPBACK}",
            f"--host={HOST_ADDRESS}",
            f"--port={HUB_PORT}",
            f"--token-file={paths.hub_token}",
        ),
        environment={"PYTHONPATH": str(REPOSITORY), "PYTHONDONTWRITEBYTECODE": "1", "PYTHONUNBUFFERED": "1"},
        reads=(paths.hub_token, *sorted((REPOSITORY / "localcluster" / "hub").glob("*.py"))),
        addresses=((LOOPBACK, HUB_PORT), (HOST_ADDRESS, HUB_PORT)),
        is_healthy=lambda: answers(f"http://{LOOPBACK}:{HUB_PORT}/api/models"),
    )


def ensure_hub_token(paths: Paths) -> None:
    """Makes this state's token, which opens gated models, where there is none; mode 0600."""
    if not paths.hub_token.exists():
        write_private(paths.hub_token, f"hf_{secrets.token_hex(17)}\n".encode())
