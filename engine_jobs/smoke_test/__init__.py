"""The smoke test: waits for a served model, asks it a question and gives a verdict.

One implementation runs as a Kubernetes Job, in a Pulumi hook and by hand (`python -m engine_jobs.smoke_test --help`).
Importing it costs the standard library only; the HTTP, gRPC and Kubernetes clients are imported when a test runs.
"""

from engine_jobs.smoke_test.cluster import ClusterAccess
from engine_jobs.smoke_test.runner import run_smoke_test
from engine_jobs.smoke_test.spec import (
    ExpectedOutput,
    GrpcProbe,
    HttpProbe,
    InferenceServiceTarget,
    SmokeTest,
    Tensor,
    UrlTarget,
    content_key,
    v2_probes,
)
from engine_jobs.smoke_test.verdict import ProbeResult, Verdict

__all__ = [
    "ClusterAccess",
    "ExpectedOutput",
    "GrpcProbe",
    "HttpProbe",
    "InferenceServiceTarget",
    "ProbeResult",
    "SmokeTest",
    "Tensor",
    "UrlTarget",
    "Verdict",
    "content_key",
    "run_smoke_test",
    "v2_probes",
]
