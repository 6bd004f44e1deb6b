"""Jobs that run once a model has passed its smoke test (a benchmark, say), each keyed by what it runs.

Nothing depends on them: one that fails fails the `up`, and the model serves on. What they print is in their logs; their files stay on
the work volume.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.credentials import hub_environment
from components.kubernetes.disk import WORK_CLAIM
from components.kubernetes.job import awaited, job_args
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import BUILDER
from engine_jobs.recipe import WORK_DIR, JobSpec, content_key


@dataclass(frozen=True, kw_only=True)
class FollowUpArgs:
    """`model` is the name in the stack file. `hub_token`: there is one."""

    scope: Scope
    model: str
    jobs: tuple[JobSpec, ...]
    hub_token: bool


def follow_up_job_args(args: FollowUpArgs, spec: JobSpec) -> k8s.batch.v1.JobInitArgs:
    return job_args(
        args.scope,
        spec,
        name=f"{args.model}-{spec.name}-{content_key(repr(spec))[:8]}",
        service_account=BUILDER,
        env=hub_environment() if args.hub_token and spec.needs_hub_token else [],
        claims={WORK_DIR: WORK_CLAIM},
        labels={"app.kubernetes.io/component": spec.name, "llm-serving/model": args.model},
        retries=0,
    )


class FollowUp(pulumi.ComponentResource):
    """The Jobs, one after the other."""

    def __init__(
        self,
        name: str,
        args: FollowUpArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:serving:FollowUp", name, None, opts)
        before = after
        for spec in args.jobs:
            job = k8s.batch.v1.Job(f"{name}-{spec.name}", follow_up_job_args(args, spec), awaited(self, spec, before))
            before = (job,)
        self.register_outputs({})
