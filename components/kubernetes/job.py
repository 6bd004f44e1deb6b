"""The Kubernetes Job of a JobSpec: a pure builder, used by everything that runs one."""

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.metadata import Scope
from components.kubernetes.work_volume import CLAIM
from engine_jobs.recipe import WORK_DIR, JobSpec

JOB_USER = 1000
"""The uid and gid that Jobs run as."""

EXIT_FAILED = 1
"""A program's own verdict (wrong input, refused token …): trying again can't help. Anything else (killed, node lost) may."""


def restricted() -> k8s.core.v1.SecurityContextArgs:
    """What the Pod Security level `restricted` asks of a container."""
    return k8s.core.v1.SecurityContextArgs(
        allow_privilege_escalation=False,
        capabilities=k8s.core.v1.CapabilitiesArgs(drop=["ALL"]),
        run_as_non_root=True,
        seccomp_profile=k8s.core.v1.SeccompProfileArgs(type="RuntimeDefault"),
    )


def job_args(
    scope: Scope,
    spec: JobSpec,
    *,
    name: str,
    service_account: str,
    env: list[k8s.core.v1.EnvVarArgs],
    work_volume: bool,
    labels: Mapping[str, str],
    retries: int = 2,
    kubernetes_api: bool = False,
) -> k8s.batch.v1.JobInitArgs:
    """The Job `name`: the spec's steps as init containers and, the last, as the container. Its last log lines become the
    termination message of a step that fails, so that whoever awaits the Job can show them.

    No `ttlSecondsAfterFinished`: a Job that Kubernetes removes would be built again after a refresh.
    """
    mounts = (
        [k8s.core.v1.VolumeMountArgs(name="work", mount_path=WORK_DIR, sub_path=scope.namespace)] if work_volume else []
    )
    containers = [
        k8s.core.v1.ContainerArgs(
            name=step.name,
            image=spec.image,
            image_pull_policy="IfNotPresent",
            command=list(step.command),
            env=[k8s.core.v1.EnvVarArgs(name="HOME", value="/tmp"), *env],
            resources=k8s.core.v1.ResourceRequirementsArgs(
                requests=spec.resources.requests, limits=spec.resources.limits
            ),
            security_context=restricted(),
            volume_mounts=[*mounts, k8s.core.v1.VolumeMountArgs(name="tmp", mount_path="/tmp")],
            termination_message_policy="FallbackToLogsOnError",
        )
        for step in spec.steps
    ]
    volumes = [k8s.core.v1.VolumeArgs(name="tmp", empty_dir=k8s.core.v1.EmptyDirVolumeSourceArgs())]
    if work_volume:
        claim = k8s.core.v1.PersistentVolumeClaimVolumeSourceArgs(claim_name=CLAIM)
        volumes.append(k8s.core.v1.VolumeArgs(name="work", persistent_volume_claim=claim))
    return k8s.batch.v1.JobInitArgs(
        metadata=scope.metadata(name, labels=labels, annotations={"pulumi.com/replaceUnready": "true"}),
        spec=k8s.batch.v1.JobSpecArgs(
            backoff_limit=retries,
            active_deadline_seconds=spec.timeout_seconds,
            pod_failure_policy=k8s.batch.v1.PodFailurePolicyArgs(
                rules=[
                    k8s.batch.v1.PodFailurePolicyRuleArgs(
                        action="FailJob",
                        on_exit_codes=k8s.batch.v1.PodFailurePolicyOnExitCodesRequirementArgs(
                            operator="In", values=[EXIT_FAILED]
                        ),
                    )
                ]
            ),
            template=k8s.core.v1.PodTemplateSpecArgs(
                metadata=k8s.meta.v1.ObjectMetaArgs(labels=dict(labels)),
                spec=k8s.core.v1.PodSpecArgs(
                    restart_policy="Never",
                    service_account_name=service_account,
                    automount_service_account_token=kubernetes_api,
                    enable_service_links=False,
                    security_context=k8s.core.v1.PodSecurityContextArgs(
                        run_as_user=JOB_USER, run_as_group=JOB_USER, fs_group=JOB_USER
                    ),
                    init_containers=containers[:-1] or None,
                    containers=containers[-1:],
                    volumes=volumes,
                ),
            ),
        ),
    )


def awaited(parent: pulumi.Resource, spec: JobSpec, after: Sequence[pulumi.Resource]) -> pulumi.ResourceOptions:
    """The options of a Job that is awaited to its end: its own time-out, and time for its image to be pulled."""
    timeout = f"{spec.timeout_seconds + 600}s"
    return pulumi.ResourceOptions(
        parent=parent,
        depends_on=list(after),
        custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout, delete="5m"),
    )
