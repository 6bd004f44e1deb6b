"""The bucket of an S3 or GCS endpoint that has no infrastructure API of its own: made by a Job, if it is not there.

It is never removed: engines belong to the store, not to the stack that happened to be first.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.credentials import StoreAccess, store_environment
from components.kubernetes.job import awaited, job_args
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import BUILDER
from engine_jobs.recipe import JobSpec, Resources, Step, content_key


@dataclass(frozen=True, kw_only=True)
class EndpointBucketArgs:
    scope: Scope
    store: StoreAccess
    image: str


def bucket_job_spec(args: EndpointBucketArgs) -> JobSpec:
    return JobSpec(
        name="bucket",
        image=args.image,
        steps=(Step(name="bucket", command=("python", "-m", "engine_jobs.bucket", "--url", args.store.bucket_url)),),
        resources=Resources(cpu="50m", memory="256Mi"),
        timeout_seconds=300,
    )


def bucket_job_args(args: EndpointBucketArgs) -> k8s.batch.v1.JobInitArgs:
    spec = bucket_job_spec(args)
    return job_args(
        args.scope,
        spec,
        name=f"bucket-{args.store.name}-{content_key([args.store.bucket_url, args.image, args.store.endpoint])[:8]}",
        service_account=BUILDER,
        env=store_environment(args.store),
        labels={"app.kubernetes.io/component": "bucket"},
    )


class EndpointBucket(pulumi.ComponentResource):
    """A bucket that is there when the component is."""

    def __init__(
        self,
        name: str,
        args: EndpointBucketArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:kubernetes:EndpointBucket", name, None, opts)
        k8s.batch.v1.Job(f"{name}-job", bucket_job_args(args), awaited(self, bucket_job_spec(args), after))
        self.register_outputs({"bucket": args.store.bucket_url})
