"""The lock that a killed `pulumi up` leaves behind in the file backend."""

import json
import os
import socket
from pathlib import Path

from engine_jobs.errors import UserError


def release_stale_lock(backend: Path, stack: str) -> None:
    """Removes locks of this machine's processes that are no more. Raises UserError where a live one holds the stack."""
    for lock in sorted((backend / ".pulumi" / "locks").glob(f"**/{stack}/*.json")):
        try:
            holder = json.loads(lock.read_text())
        except (OSError, ValueError):
            continue
        if holder.get("hostname") != socket.gethostname() or _alive(int(holder.get("pid", 0))):
            raise UserError(
                f"stack {stack}: pulumi (pid {holder.get('pid')} on {holder.get('hostname')}) holds its lock since "
                f"{holder.get('timestamp')}: wait for it to end, or end it, then try again ({lock})"
            )
        lock.unlink(missing_ok=True)


def _alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
