"""The Job that measures a served model: pure, its program is engine_jobs.triton_cli.benchmark."""

from engine_jobs.recipe import WORK_DIR, JobSpec, Model, Platform, Resources, Step
from engine_jobs.tensorrt_llm.versions import Release, version_key
from engine_jobs.triton_cli.settings import BenchmarkSettings

IMAGE = "aiperf"
RESOURCES = Resources(cpu="500m", memory="2Gi")


def benchmark_job(
    service: str,
    served_model: str,
    model: Model,
    settings: BenchmarkSettings,
    platform: Platform,
    release: Release,
) -> JobSpec:
    """Asks `served_model` at the InferenceService's own Service in the cluster, past the gateway, as the tutorial asks localhost. The
    table is the Job's output, and its termination message; aiperf's files stay on the work volume."""
    own = () if settings.tokenizer else ("--tokenizer-revision", model.source.revision)
    hub = ("--hub-endpoint", platform.hub_endpoint) if platform.hub_endpoint else ()
    count = ("--request-count", str(settings.request_count)) if settings.request_count else ()
    least = "min_tokens" if version_key(release.described) >= (0, 20) else "min_length"
    exact = ("--output-tokens-mean-deterministic", "--min-tokens-input", least)
    command = (
        *("python", "-m", "engine_jobs.triton_cli.benchmark", "-m", served_model),
        *("--url", f"http://{service}-predictor.{platform.namespace}.svc"),
        *("--num-prompts", str(settings.num_prompts), "--random-seed", str(settings.random_seed)),
        *("--synthetic-input-tokens-mean", str(settings.synthetic_input_tokens_mean)),
        *("--synthetic-input-tokens-stddev", str(settings.synthetic_input_tokens_stddev)),
        *("--output-tokens-mean", str(settings.output_tokens_mean)),
        *("--output-tokens-stddev", str(settings.output_tokens_stddev)),
        *(exact if settings.output_tokens_mean_deterministic else ()),
        *("--tokenizer", settings.tokenizer or model.source.model, *own, *hub),
        *("--concurrency", str(settings.concurrency)),
        *("--measurement-interval", str(settings.measurement_interval), *count),
        *("--warmup-request-count", str(settings.warmup_request_count)),
        *(("--streaming",) if settings.streaming else ()),
        *("--profile-export-file", settings.profile_export_file),
        *("--output-artifact-dir", f"{WORK_DIR}/benchmarks/{service}"),
    )
    return JobSpec(
        name="benchmark",
        image=platform.image(IMAGE),
        steps=(Step(name="benchmark", command=command),),
        resources=RESOURCES,
        timeout_seconds=settings.timeout_seconds,
        needs_hub_token=True,
    )
