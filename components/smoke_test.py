"""The question that a deployment is asked before it is called done, from two sides.

Inside: a Job keyed by what it tests, so that another artifact, image or question is a new Job, and one that failed runs again on the
next `up`. Outside: a resource hook that asks through the gateway from where the user stands, each time the InferenceService is
made or changed (a hook leaves no mark in the state, so it is an extra to the Job, not a gate).
"""

import asyncio
import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kserve.inference_service import revision_labels, service_name
from components.kubernetes.job import awaited, job_args
from components.kubernetes.metadata import Scope
from components.kubernetes.namespace import SMOKE_TEST
from engine_jobs.recipe import JobSpec, Plan, Resources, Step
from engine_jobs.smoke_test import ClusterAccess, InferenceServiceTarget, content_key, run_smoke_test
from engine_jobs.smoke_test import SmokeTest as SmokeTestSpec

OWN_JOB = k8s.core.v1.EnvVarSourceArgs(
    field_ref=k8s.core.v1.ObjectFieldSelectorArgs(field_path="metadata.labels['batch.kubernetes.io/controller-uid']")
)


@dataclass(frozen=True, kw_only=True)
class SmokeTestArgs:
    """`gateway`: where a pod reaches the gateway; `image`: the one with engine_jobs.smoke_test."""

    scope: Scope
    model: str
    plan: Plan
    image: str
    gateway: str


def smoke_test_spec(model: str, plan: Plan, gateway: str) -> SmokeTestSpec:
    """The recipe's test of this plan's InferenceService, asked through `gateway`, of its new pods only."""
    test = plan.smoke_test(service_name(model, plan))
    if not isinstance(test.target, InferenceServiceTarget):
        return test
    target = dataclasses.replace(test.target, gateway=gateway, pod_labels=dict(revision_labels(plan)))
    return dataclasses.replace(test, target=target)


def smoke_job_name(args: SmokeTestArgs) -> str:
    return f"{args.model}-smoke-{content_key(smoke_test_spec(args.model, args.plan, args.gateway))[:8]}"


def smoke_job_spec(args: SmokeTestArgs) -> JobSpec:
    test = smoke_test_spec(args.model, args.plan, args.gateway)
    command = ("python", "-m", "engine_jobs.smoke_test", "--spec-json", test.to_json())
    record = ("--verdict-config-map", smoke_job_name(args), "--termination-log", "/dev/termination-log")
    return JobSpec(
        name="smoke-test",
        image=args.image,
        steps=(Step(name="ask", command=(*command, *record)),),
        resources=Resources(cpu="50m", memory="512Mi"),
        timeout_seconds=int(test.deadline_s) + 60,
    )


def smoke_job_args(args: SmokeTestArgs) -> k8s.batch.v1.JobInitArgs:
    return job_args(
        args.scope,
        smoke_job_spec(args),
        name=smoke_job_name(args),
        service_account=SMOKE_TEST,
        env=[k8s.core.v1.EnvVarArgs(name="JOB_UID", value_from=OWN_JOB)],
        labels={"app.kubernetes.io/component": "smoke-test", "llm-serving/model": args.model},
        kubernetes_api=True,
    )


def ask_from_outside(model: str, plan: Plan, gateway: str, context: str) -> pulumi.ResourceHookBinding:
    """A hook that runs the same smoke test from this machine, after the InferenceService is created or updated."""
    test = smoke_test_spec(model, plan, gateway)

    async def ask(_: pulumi.ResourceHookArgs) -> None:
        verdict = await asyncio.to_thread(run_smoke_test, test, cluster=ClusterAccess(context=context))
        verdict.raise_for_failure()
        pulumi.log.info(f"asked through {gateway}: {verdict.text()}")

    hook = pulumi.ResourceHook(f"{model}-ask-from-outside", ask)
    return pulumi.ResourceHookBinding(after_create=[hook], after_update=[hook])


class SmokeTest(pulumi.ComponentResource):
    """The smoke test's Job. `verdict` (an Output) is what it recorded: passed, the request, the answer, the seconds to it."""

    def __init__(
        self,
        name: str,
        args: SmokeTestArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:serving:SmokeTest", name, None, opts)
        job = k8s.batch.v1.Job(f"{name}-job", smoke_job_args(args), awaited(self, smoke_job_spec(args), after))
        recorded = k8s.core.v1.ConfigMap.get(
            f"{name}-verdict", job.id, pulumi.ResourceOptions(parent=self, depends_on=[job])
        )
        self.verdict = recorded.data.apply(lambda data: dict(data or {}))
        self.register_outputs({"verdict": self.verdict})
