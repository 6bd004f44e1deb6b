"""The disk that build Jobs work on: a claim, and on a single-node cluster the hostPath volume behind it, bound by name."""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.metadata import Scope

CLAIM = "work"


@dataclass(frozen=True, kw_only=True)
class WorkVolumeArgs:
    """`size` is a Kubernetes quantity. `host_path`: a folder of the node; else `storage_class`, else the cluster's default class."""

    scope: Scope
    size: str
    host_path: str | None
    storage_class: str | None


def volume_name(scope: Scope) -> str:
    return f"{scope.namespace}-work"


def persistent_volume_args(args: WorkVolumeArgs, host_path: str) -> k8s.core.v1.PersistentVolumeInitArgs:
    return k8s.core.v1.PersistentVolumeInitArgs(
        metadata=args.scope.metadata(volume_name(args.scope), cluster_wide=True),
        spec=k8s.core.v1.PersistentVolumeSpecArgs(
            capacity={"storage": args.size},
            access_modes=["ReadWriteOnce"],
            persistent_volume_reclaim_policy="Retain",
            storage_class_name="",
            host_path=k8s.core.v1.HostPathVolumeSourceArgs(path=host_path, type="Directory"),
            claim_ref=k8s.core.v1.ObjectReferenceArgs(
                api_version="v1", kind="PersistentVolumeClaim", name=CLAIM, namespace=args.scope.namespace
            ),
        ),
    )


def claim_args(args: WorkVolumeArgs) -> k8s.core.v1.PersistentVolumeClaimInitArgs:
    return k8s.core.v1.PersistentVolumeClaimInitArgs(
        metadata=args.scope.metadata(CLAIM),
        spec=k8s.core.v1.PersistentVolumeClaimSpecArgs(
            access_modes=["ReadWriteOnce"],
            storage_class_name="" if args.host_path else args.storage_class,
            volume_name=volume_name(args.scope) if args.host_path else None,
            resources=k8s.core.v1.VolumeResourceRequirementsArgs(requests={"storage": args.size}),
        ),
    )


class WorkVolume(pulumi.ComponentResource):
    """PersistentVolume (with `host_path` only) and PersistentVolumeClaim `work`."""

    def __init__(
        self,
        name: str,
        args: WorkVolumeArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:kubernetes:WorkVolume", name, None, opts)
        volumes: list[pulumi.Resource] = list(after)
        if args.host_path:
            volumes.append(
                k8s.core.v1.PersistentVolume(
                    f"{name}-volume",
                    persistent_volume_args(args, args.host_path),
                    pulumi.ResourceOptions(parent=self),
                )
            )
        k8s.core.v1.PersistentVolumeClaim(
            f"{name}-claim", claim_args(args), pulumi.ResourceOptions(parent=self, depends_on=volumes)
        )
        self.register_outputs({})
