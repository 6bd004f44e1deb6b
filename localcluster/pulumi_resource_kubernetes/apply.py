"""Writing objects: create, server-side apply, giving up ownership. Each also as a dry run, which the preview uses."""

import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from localcluster.pulumi_resource_kubernetes.cluster import APPLY, JSON_PATCH, Cluster
from localcluster.pulumi_resource_kubernetes.errors import ApiError, NoSuchKindError, ProviderError
from localcluster.pulumi_resource_kubernetes.field_ownership import (
    CREATE_MANAGER,
    entries_of,
    follow_ignored,
    handover,
    made_without_apply,
)
from localcluster.pulumi_resource_kubernetes.objects import PATCH_FORCE, annotated_true, describe, is_crd, metadata_of
from localcluster.pulumi_resource_kubernetes.values import Object

# A namespace or a CRD that is made at the same time may come a moment later: the official provider's five retries.
_RETRY_DELAYS_S = (1.0, 2.0, 4.0, 8.0, 16.0)


class AlreadyExistsError(ProviderError):
    """The object is in the cluster and this stack didn't make it."""


@dataclass(frozen=True, kw_only=True)
class Writer:
    """How one object is written, by whom."""

    cluster: Cluster
    manager: str
    force: bool
    dry_run: bool
    cancelled: threading.Event
    report: Callable[[str], None]
    warn: Callable[[str], None]

    def create(self, obj: Object) -> Object:
        """POST: fails where the object exists. Raises AlreadyExistsError, ApiError, NoSuchKindError."""
        query = {"fieldManager": CREATE_MANAGER, "fieldValidation": "Warn"}
        try:
            return self._retried(lambda: self._write("POST", self.cluster.path_of(obj, named=False), obj, query))
        except ApiError as error:
            if not error.already_exists:
                raise
            raise AlreadyExistsError(
                f"{describe(obj)} is already in the cluster, and this stack didn't make it. Import it (`pulumi import`), "
                "delete it, or set upsertExistingObjects on the provider to take it over"
            ) from None

    def upsert(self, obj: Object) -> Object:
        """Server-side apply, which makes the object where there is none."""
        return self._retried(lambda: self._apply(obj, self._forced(obj)))

    def update(self, obj: Object, ignored: list[list[str]], *, patch: bool) -> Object:
        """Brings a live object to the inputs; a CRD is replaced, everything else applied."""
        live = self.cluster.get(obj)
        if is_crd(obj):
            whole = {**obj, "metadata": {**metadata_of(obj), "resourceVersion": live["metadata"]["resourceVersion"]}}
            query = {"fieldManager": self.manager, "fieldValidation": "Warn"}
            return self._write("PUT", self.cluster.path_of(obj), whole, query)
        force = self._forced(obj) or not entries_of(live)
        if self.dry_run:
            # The dry run can't see the handover that comes before the real apply.
            force = force or made_without_apply(live)
        elif not patch and (operations := handover(live, self.manager)) is not None:
            path = self.cluster.path_of(obj)
            live = self.cluster.request("PATCH", path, body=operations, content_type=JSON_PATCH).body
        return self._apply(follow_ignored(obj, live, ignored, self.manager), force)

    def relinquish(self, obj: Object) -> None:
        """Applies nothing but the identity: every field that only this manager owned goes back to its default."""
        live = self.cluster.get(obj)
        identity = {key: obj[key] for key in ("apiVersion", "kind")}
        metadata = {key: value for key, value in metadata_of(live).items() if key in ("name", "namespace", "uid")}
        # With the uid this can't make the object anew, should it go in this moment.
        self._apply({**identity, "metadata": metadata}, False)

    def _forced(self, obj: Object) -> bool:
        return self.force or annotated_true(obj, PATCH_FORCE)

    def _apply(self, obj: Object, force: bool) -> Object:
        query = {"fieldManager": self.manager, "force": "true" if force else "false", "fieldValidation": "Warn"}
        try:
            return self._write("PATCH", self.cluster.path_of(obj), obj, query, APPLY)
        except ApiError as error:
            if error.status == 409 and error.causes:
                raise ProviderError(_conflict(obj, error)) from None
            raise

    def _write(
        self, method: str, path: str, obj: Object, query: Mapping[str, str], content_type: str = "application/json"
    ) -> Object:
        if self.dry_run:
            query = {**query, "dryRun": "All"}
        answer = self.cluster.request(method, path, query=query, body=obj, content_type=content_type)
        for warning in answer.warnings:
            self.warn(warning)
        written: Object = answer.body
        return written

    def _retried(self, write: Callable[[], Object]) -> Object:
        delays = () if self.dry_run else _RETRY_DELAYS_S
        for attempt, delay in enumerate(delays, start=1):
            try:
                return write()
            except (ApiError, NoSuchKindError) as error:
                if isinstance(error, ApiError) and not error.not_found:
                    raise
                self.report(f"Retry #{attempt}; creation failed: {error}")
                if self.cancelled.wait(delay):
                    raise
        return write()


def _conflict(obj: Object, error: ApiError) -> str:
    fields = "; ".join(f"{cause.path} ({cause.message})" for cause in error.causes)
    return (
        f"{describe(obj)}: other field managers own what this stack wants to set: {fields}. Take those fields out of the "
        f'program, or annotate the object with {PATCH_FORCE}: "true" to take them over'
    )
