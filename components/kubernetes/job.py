"""The Kubernetes Job of a JobSpec: a pure builder, used by everything that runs one."""

from collections.abc import Mapping, Sequence

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.disk import WORK_CLAIM
from components.kubernetes.metadata import Scope
from engine_jobs.recipe import JobSpec

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
    labels: Mapping[str, str],
    claims: Mapping[str, str] | None = None,
    retries: int = 2,
    kubernetes_api: bool = False,
) -> k8s.batch.v1.JobInitArgs:
    """The Job `name`: the spec's steps as init containers and, the last, as the container. Its last log lines become the
    termination message of a step that fails, so that whoever awaits the Job can show them. `claims`: PersistentVolumeClaims by
    the folder that each is seen at; of the work volume, the namespace's own part.

    No `ttlSecondsAfterFinished`: a Job that Kubernetes removes would be built again after a refresh.
    """
    volumes, mounts = _volumes(scope, spec, claims or {})
    plain = [k8s.core.v1.EnvVarArgs(name=key, value=value) for key, value in {"HOME": "/tmp", **spec.env}.items()]
    containers = [
        k8s.core.v1.ContainerArgs(
            name=step.name,
            image=spec.image,
            image_pull_policy="IfNotPresent",
            command=list(step.command),
            env=[*plain, *env],
            resources=k8s.core.v1.ResourceRequirementsArgs(
                requests=spec.resources.requests, limits=spec.resources.limits
            ),
            security_context=restricted(),
            volume_mounts=mounts,
            termination_message_policy="FallbackToLogsOnError",
        )
        for step in spec.steps
    ]
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
                    node_selector=dict(spec.node_selector) or None,
                    tolerations=gpu_tolerations(spec),
                    init_containers=containers[:-1] or None,
                    containers=containers[-1:],
                    volumes=volumes,
                ),
            ),
        ),
    )


def gpu_tolerations(spec: JobSpec) -> list[k8s.core.v1.TolerationArgs] | None:
    """GKE taints its GPU nodes with nvidia.com/gpu; a Job may have to run there for a disk's sake alone."""
    if not spec.resources.gpus and not spec.node_selector:
        return None
    return [k8s.core.v1.TolerationArgs(key="nvidia.com/gpu", operator="Exists", effect="NoSchedule")]


def _volumes(
    scope: Scope, spec: JobSpec, claims: Mapping[str, str]
) -> tuple[list[k8s.core.v1.VolumeArgs], list[k8s.core.v1.VolumeMountArgs]]:
    """The pod's volumes, and where each step sees them."""
    empty = k8s.core.v1.EmptyDirVolumeSourceArgs
    volumes = [k8s.core.v1.VolumeArgs(name="tmp", empty_dir=empty())]
    mounts = [k8s.core.v1.VolumeMountArgs(name="tmp", mount_path="/tmp")]
    if spec.shared_memory:
        memory = empty(medium="Memory", size_limit=spec.shared_memory)
        volumes.append(k8s.core.v1.VolumeArgs(name="shared-memory", empty_dir=memory))
        mounts.append(k8s.core.v1.VolumeMountArgs(name="shared-memory", mount_path="/dev/shm"))
    for folder, claim in claims.items():
        source = k8s.core.v1.PersistentVolumeClaimVolumeSourceArgs(claim_name=claim)
        volumes.append(k8s.core.v1.VolumeArgs(name=claim, persistent_volume_claim=source))
        part = scope.namespace if claim == WORK_CLAIM else None
        mounts.append(k8s.core.v1.VolumeMountArgs(name=claim, mount_path=folder, sub_path=part))
    return volumes, mounts


def awaited(parent: pulumi.Resource, spec: JobSpec, after: Sequence[pulumi.Resource]) -> pulumi.ResourceOptions:
    """The options of a Job that is awaited to its end: its own time-out, and time for its image to be pulled."""
    timeout = f"{spec.timeout_seconds + 600}s"
    return pulumi.ResourceOptions(
        parent=parent,
        depends_on=list(after),
        custom_timeouts=pulumi.CustomTimeouts(create=timeout, update=timeout, delete="5m"),
    )
