"""What the program is given: settings, credentials, and two questions that only a network can answer.

`from_engine` is for a run by Pulumi; `for_rendering` needs no engine, cluster, network or credentials.
"""

import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pulumi

from engine_jobs.errors import UserError
from engine_jobs.recipe import Artifact
from stacks.planning import NO_HUB, Hub
from stacks.settings import PROJECT, Settings, StoreSettings, parse_settings

SECRETS = ("hfToken", "s3AccessKeyId", "s3SecretAccessKey")
PLACEHOLDER = "<secret>"

BUILT = "reused: it is in the store"
TO_BUILD = "to be built"


@dataclass(frozen=True, kw_only=True)
class Credentials:
    """Key id and secret key of the S3 stores (None: there is no such store), and the Hub's token (None: there is none), as secret
    Outputs."""

    s3_keys: tuple[pulumi.Input[str], pulumi.Input[str]] | None
    hub_token: pulumi.Input[str] | None


@dataclass(frozen=True, kw_only=True)
class Inputs:
    """`artifact_state` says of an artifact in a store whether it will be built or is there already, in words, for the preview.
    `live`: resources will be made, and can be asked."""

    stack: str
    live: bool
    settings: Settings
    credentials: Credentials
    hub: Hub
    artifact_state: Callable[[StoreSettings, Artifact], str]


def from_engine() -> Inputs:
    """The inputs of a run by Pulumi. A secret config of the stack beats what boto3 and huggingface_hub find on this machine."""
    config, stack = pulumi.Config(PROJECT), pulumi.get_stack()
    secrets = {key: config.get(key) for key in SECRETS}
    values = {key: config.get_object(key) for key in ("platform", "models") if config.get(key) is not None}
    settings = parse_settings({**values, **{k: v for k, v in secrets.items() if v}}, f"Pulumi.{stack}.yaml")
    s3 = any(store.scheme == "s3" for store in settings.platform.stores.values())
    keys = _s3_keys(secrets, stack) if s3 else None
    hub_token = secrets["hfToken"] or _hub_token()
    return Inputs(
        stack=stack,
        live=True,
        settings=settings,
        credentials=Credentials(
            s3_keys=(pulumi.Output.secret(keys[0]), pulumi.Output.secret(keys[1])) if keys else None,
            hub_token=pulumi.Output.secret(hub_token) if hub_token else None,
        ),
        hub=_hub(settings.platform.hub.endpoint, hub_token),
        artifact_state=_ask_store,
    )


def for_rendering(stack: str, file: Path, config: dict[str, Any]) -> Inputs:
    return Inputs(
        stack=stack,
        live=False,
        settings=parse_settings(config, file),
        credentials=Credentials(s3_keys=(PLACEHOLDER, PLACEHOLDER), hub_token=PLACEHOLDER),
        hub=NO_HUB,
        artifact_state=lambda *_: TO_BUILD,
    )


def _s3_keys(secrets: dict[str, str | None], stack: str) -> tuple[str, str]:
    key, secret = secrets["s3AccessKeyId"], secrets["s3SecretAccessKey"]
    if bool(key) != bool(secret):
        absent = "s3SecretAccessKey" if key else "s3AccessKeyId"
        raise UserError(
            f"stack {stack}: {PROJECT}:{absent}: missing beside its other half; `pulumi config set --secret {absent} …`"
        )
    if key and secret:
        # boto3 finds them here when the program asks the store itself.
        os.environ.update(AWS_ACCESS_KEY_ID=key, AWS_SECRET_ACCESS_KEY=secret)
        return key, secret
    import boto3

    found = boto3.Session().get_credentials()
    if found is None:
        raise UserError(
            f"stack {stack}: no credentials for the artifact store: neither {PROJECT}:s3AccessKeyId and s3SecretAccessKey "
            "(`pulumi config set --secret s3AccessKeyId …`) nor what boto3 looks for (AWS_ACCESS_KEY_ID, AWS_PROFILE, "
            'AWS_SHARED_CREDENTIALS_FILE). For the local stack: eval "$(make -s env)"'
        )
    frozen = found.get_frozen_credentials()
    return str(frozen.access_key), str(frozen.secret_key)


def _hub_token() -> str | None:
    from huggingface_hub import get_token

    return get_token()


def _hub(endpoint: str | None, token: str | None) -> Hub:
    from engine_jobs.resolve import TransientHubError, read_config, resolve_revision

    def config(model: str, revision: str) -> Mapping[str, Any] | None:
        try:
            return read_config(model, revision, endpoint=endpoint, token=token)
        except TransientHubError as error:
            pulumi.log.warn(f"{error} What its config.json could tell (does it fit the GPU?) is not checked.")
            return None

    return Hub(
        commit=lambda model, revision: resolve_revision(model, revision, endpoint=endpoint, token=token), config=config
    )


def _ask_store(store: StoreSettings, artifact: Artifact) -> str:
    from engine_jobs.object_bucket import BucketAbsentError
    from engine_jobs.store import ArtifactStore

    os.environ.setdefault("AWS_REGION", store.region)
    try:
        there = ArtifactStore.from_url(store.url, endpoint=store.endpoint).is_complete(artifact.path)
    except BucketAbsentError:
        return TO_BUILD
    except UserError as error:
        return f"built, unless it is in the store, which could not be asked ({error})"
    return BUILT if there else TO_BUILD
