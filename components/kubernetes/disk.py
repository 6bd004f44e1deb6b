"""A disk, of a model or of the build Jobs: PersistentVolume and PersistentVolumeClaim, bound to each other by name.

The volume keeps its data when the claim goes (`Retain`), and its claimRef names the claim without a uid, so that a claim made anew
binds to it again. The disk itself (a Compute Engine disk, a folder of the node) is there before; a StorageClass makes its own.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.metadata import Scope

WORK_CLAIM = "work"
"""The disk that build Jobs work on."""

PD_DRIVER = "pd.csi.storage.gke.io"
"""https://cloud.google.com/kubernetes-engine/docs/how-to/persistent-volumes/preexisting-pd"""


@dataclass(frozen=True, kw_only=True)
class DiskArgs:
    """`claim` is the claim's name; `size` a Kubernetes quantity. One of `persistent_disk` (projects/P/zones/Z/disks/NAME),
    `host_path` and `storage_class`, or none for the cluster's default class."""

    scope: Scope
    claim: str
    size: str
    persistent_disk: str | None
    host_path: str | None
    storage_class: str | None

    @property
    def has_volume(self) -> bool:
        return bool(self.persistent_disk or self.host_path)

    @property
    def volume(self) -> str:
        return f"{self.scope.namespace}-{self.claim}"


def persistent_volume_args(args: DiskArgs) -> k8s.core.v1.PersistentVolumeInitArgs:
    """Raises ValueError for a disk that a StorageClass provides."""
    if not args.has_volume:
        raise ValueError(f"{args.claim}: its volume is its StorageClass's to make")
    place = k8s.core.v1.PersistentVolumeSpecArgs(
        capacity={"storage": args.size},
        access_modes=["ReadWriteOnce"],
        persistent_volume_reclaim_policy="Retain",
        storage_class_name="",
        claim_ref=k8s.core.v1.ObjectReferenceArgs(
            api_version="v1", kind="PersistentVolumeClaim", name=args.claim, namespace=args.scope.namespace
        ),
    )
    if args.persistent_disk:
        place.csi = k8s.core.v1.CSIPersistentVolumeSourceArgs(
            driver=PD_DRIVER, volume_handle=args.persistent_disk, fs_type="ext4"
        )
    elif args.host_path:
        place.host_path = k8s.core.v1.HostPathVolumeSourceArgs(path=args.host_path, type="Directory")
    return k8s.core.v1.PersistentVolumeInitArgs(
        metadata=args.scope.metadata(args.volume, cluster_wide=True), spec=place
    )


def claim_args(args: DiskArgs) -> k8s.core.v1.PersistentVolumeClaimInitArgs:
    return k8s.core.v1.PersistentVolumeClaimInitArgs(
        metadata=args.scope.metadata(args.claim),
        spec=k8s.core.v1.PersistentVolumeClaimSpecArgs(
            access_modes=["ReadWriteOnce"],
            storage_class_name="" if args.has_volume else args.storage_class,
            volume_name=args.volume if args.has_volume else None,
            resources=k8s.core.v1.VolumeResourceRequirementsArgs(requests={"storage": args.size}),
        ),
    )


class Disk(pulumi.ComponentResource):
    """PersistentVolume (where the disk is there before) and PersistentVolumeClaim."""

    def __init__(
        self,
        name: str,
        args: DiskArgs,
        opts: pulumi.ResourceOptions | None = None,
        *,
        after: Sequence[pulumi.Resource] = (),
    ) -> None:
        super().__init__("llm-serving:kubernetes:Disk", name, None, opts)
        before = list(after)
        if args.has_volume:
            volume = persistent_volume_args(args)
            before.append(k8s.core.v1.PersistentVolume(f"{name}-volume", volume, pulumi.ResourceOptions(parent=self)))
        k8s.core.v1.PersistentVolumeClaim(
            f"{name}-claim", claim_args(args), pulumi.ResourceOptions(parent=self, depends_on=before)
        )
        self.register_outputs({})
