"""Where a measurement was made: the client's machine, which on a laptop-sized stack is the server's as well."""

import os
import platform
import shutil
import subprocess
from pathlib import Path

NVIDIA_SMI = ("nvidia-smi", "--query-gpu=name,driver_version", "--format=csv,noheader")


def machine() -> dict[str, str]:
    """CPU, system, Python, and the GPUs that nvidia-smi lists, of the machine that asks."""
    cores = len(os.sched_getaffinity(0))
    return {
        "client's CPU": f"{_cpu()}, {cores} {'core' if cores == 1 else 'cores'}",
        "client's load": f"{os.getloadavg()[0]:.2f} (1 min average)",
        "client's GPU": _gpus() or "none",
        "client's system": f"{platform.system()} {platform.release()}, Python {platform.python_version()}",
    }


def _cpu() -> str:
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return platform.machine()
    names = [line.partition(":")[2].strip() for line in text.splitlines() if line.startswith("model name")]
    return names[0] if names else platform.machine()


def _gpus() -> str:
    if shutil.which(NVIDIA_SMI[0]) is None:
        return ""
    try:
        listed = subprocess.run(NVIDIA_SMI, capture_output=True, text=True, timeout=20, check=True).stdout
    except (OSError, subprocess.SubprocessError):
        return ""
    return "; ".join(line.strip() for line in listed.splitlines() if line.strip())
