"""The build of one artifact: a chain of awaited Jobs, each named by the artifact's content address.

A Job that fails stops the chain, and with it everything that depends on this component; the next `up` replaces it
(`pulumi.com/replaceUnready`). A Job whose artifact is already in the store ends at once.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.credentials import StoreAccess, hub_environment, store_environment
from components.kubernetes.disk import WORK_CLAIM
from components.kubernetes.job import awaited, job_args
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import BUILDER
from engine_jobs.recipe import DISK_DIR, WORK_DIR, Build, JobSpec


@dataclass(frozen=True, kw_only=True)
class EngineBuildArgs:
    """`model` is the name in the stack file. `hub_token`: there is one. `disk_claim`: of the model's own disk, if it has one."""

    scope: Scope
    model: str
    build: Build
    store: StoreAccess
    hub_token: bool
    disk_claim: str | None = None


def build_job_args(args: EngineBuildArgs, spec: JobSpec) -> k8s.batch.v1.JobInitArgs:
    key = args.build.artifact.short_key
    return job_args(
        args.scope,
        spec,
        name=f"{args.model}-{spec.name}-{key}",
        service_account=BUILDER,
        env=[*store_environment(args.store), *(hub_environment() if args.hub_token and spec.needs_hub_token else [])],
        claims=mounted_claims(args, spec),
        labels={
            "app.kubernetes.io/component": "engine-build",
            "llm-serving/model": args.model,
            "llm-serving/artifact": key,
        },
    )


def mounted_claims(args: EngineBuildArgs, spec: JobSpec) -> dict[str, str]:
    """PersistentVolumeClaims by the folder that a Job sees each at."""
    disk = {DISK_DIR: args.disk_claim} if spec.mounts_disk and args.disk_claim else {}
    return {WORK_DIR: WORK_CLAIM, **disk}


class EngineBuild(pulumi.ComponentResource):
    """The Jobs, in order. Depend on this component to come after a published artifact."""

    def __init__(
        self,
        name: str,
        args: EngineBuildArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:engine:EngineBuild", name, None, opts)
        before = after
        for spec in args.build.jobs:
            job = k8s.batch.v1.Job(f"{name}-{spec.name}", build_job_args(args, spec), awaited(self, spec, before))
            before = (job,)
        self.register_outputs({"artifact": args.build.artifact.path, "key": args.build.artifact.key})
