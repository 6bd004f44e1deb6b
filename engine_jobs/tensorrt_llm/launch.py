"""`run_triton.sh`: starts Triton as scripts/launch_triton_server.py of tensorrtllm_backend v0.17.0 does, and becomes it."""

from typing import Final

from engine_jobs.tensorrt_llm.model_configs import REPOSITORY, SERVED_DIR
from engine_jobs.triton_ports import GRPC_PORT, HTTP_PORT, METRICS_PORT

SCRIPT: Final = "run_triton.sh"


def launch_script(world_size: int, served_dir: str = SERVED_DIR, *, one_process: bool = False) -> str:
    """A POSIX shell script whose process is replaced by the server, so that the container lives and stops with it: tritonserver
    for one rank, mpirun with a tritonserver for each of several. Ranks above 0 load only `tensorrt_llm`: they wait in it for work,
    and never come to open the ports. `one_process`: one server whatever the ranks (the CPU stand-in reads all their files)."""
    ranks = [_tritonserver(rank, served_dir) for rank in range(world_size)]
    many = "mpirun --allow-run-as-root \\\n  -n 1 " + " : \\\n  -n 1 ".join(ranks)
    start = ranks[0] if world_size == 1 or one_process else many
    expected = " ".join(str(rank) for rank in range(world_size))
    return f"""#!/bin/sh
# Serves this folder with Triton: {world_size} rank{"s" if world_size > 1 else ""}, {"on the CPU" if one_process else "a GPU each"}.
set -eu
for rank in {expected}; do
  if [ ! -f "{served_dir}/engines/rank$rank.engine" ]; then
    echo "error: {served_dir}/engines/rank$rank.engine is missing: this engine was not built for {world_size} rank(s)" >&2
    exit 1
  fi
done
exec {start}
"""


def _tritonserver(rank: int, served_dir: str) -> str:
    words = ["tritonserver", f"--model-repository={served_dir}/{REPOSITORY}"]
    if rank > 0:
        words += ["--model-control-mode=explicit", "--load-model=tensorrt_llm"]
    words += [
        f"--http-port={HTTP_PORT}",
        f"--grpc-port={GRPC_PORT}",
        f"--metrics-port={METRICS_PORT}",
        "--disable-auto-complete-config",
        f"--backend-config=python,shm-region-prefix-name=prefix{rank}_",
    ]
    return " ".join(words)
