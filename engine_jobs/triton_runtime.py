"""A KServe runtime of NVIDIA's Triton: what all recipes that serve with it have in common."""

from collections.abc import Mapping

from engine_jobs.recipe import Model, Port, Runtime
from engine_jobs.triton_ports import GRPC_PORT, HTTP_PORT, METRICS_PORT


def triton_runtime(
    model: Model,
    *,
    name: str,
    image: str,
    command: tuple[str, ...],
    start_timeout_seconds: int,
    shared_memory: str,
    env: Mapping[str, str] | None = None,
    cluster_wide: bool = False,
) -> Runtime:
    """`command` must make Triton listen on the ports of `triton_ports`. Through `shared_memory` the Python backend exchanges tensors."""
    return Runtime(
        name=name,
        cluster_wide=cluster_wide,
        image=image,
        command=command,
        ports=(Port(name="http1", number=HTTP_PORT), Port(name="h2c", number=GRPC_PORT)),
        protocol_versions=("v2", "grpc-v2"),
        model_format="triton",
        model_format_version="2",
        metrics_port=METRICS_PORT,
        metrics_path="/metrics",
        resources=model.predictor_resources,
        ready_path="/v2/health/ready",
        start_timeout_seconds=start_timeout_seconds,
        shared_memory=shared_memory,
        env=env or {},
    )
