"""The Secrets of a models' namespace: the artifact stores' keys and the Hub's token.

Values arrive as secret Outputs and stay so: encrypted in the state, absent from previews, and in the cluster only in these Secrets;
pods name the Secret, never the value.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.metadata import Scope

HUB_SECRET = "hub-token"
HUB_KEY = "HF_TOKEN"
S3_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, kw_only=True)
class StoreAccess:
    """How pods reach an artifact store. `name`: in the stack file; `url`: s3://BUCKET/PREFIX or gs://BUCKET/PREFIX; `endpoint`
    None: the cloud's own; `s3_keys`: key id and secret key of an S3 store (GCS knows a pod by its ServiceAccount)."""

    name: str
    url: str
    region: str
    endpoint: str | None
    s3_keys: tuple[pulumi.Input[str], pulumi.Input[str]] | None

    @property
    def is_s3(self) -> bool:
        return self.url.startswith("s3://")

    @property
    def bucket_url(self) -> str:
        return "/".join(self.url.split("/")[:3])

    @property
    def secret_name(self) -> str:
        return f"store-{self.name}"


@dataclass(frozen=True, kw_only=True)
class Access:
    """The stack's stores by name, and the Hub's token (None: no gated model)."""

    stores: Mapping[str, StoreAccess]
    hub_token: pulumi.Input[str] | None


def hub_environment() -> list[k8s.core.v1.EnvVarArgs]:
    """What huggingface_hub looks for in a pod, by reference."""
    return [_from_secret(HUB_KEY, HUB_SECRET)]


def store_environment(store: StoreAccess) -> list[k8s.core.v1.EnvVarArgs]:
    """What boto3 or google-cloud-storage looks for in a pod; secrets by reference."""
    env = []
    if store.is_s3:
        env += [_from_secret(key, store.secret_name) for key in S3_KEYS]
        env.append(k8s.core.v1.EnvVarArgs(name="AWS_REGION", value=store.region))
        if store.endpoint:
            env.append(k8s.core.v1.EnvVarArgs(name="AWS_ENDPOINT_URL_S3", value=store.endpoint))
    elif store.endpoint:
        env.append(k8s.core.v1.EnvVarArgs(name="STORAGE_EMULATOR_HOST", value=store.endpoint))
    return env


def _from_secret(key: str, secret: str) -> k8s.core.v1.EnvVarArgs:
    reference = k8s.core.v1.SecretKeySelectorArgs(name=secret, key=key)
    return k8s.core.v1.EnvVarArgs(name=key, value_from=k8s.core.v1.EnvVarSourceArgs(secret_key_ref=reference))


def store_secret_args(
    scope: Scope, store: StoreAccess, keys: tuple[pulumi.Input[str], pulumi.Input[str]]
) -> k8s.core.v1.SecretInitArgs:
    """An S3 store's keys, with the annotations that KServe's storage initializer reads (serving.kserve.io/s3-*)."""
    annotations = {"serving.kserve.io/s3-region": store.region}
    if store.endpoint:
        url = urlsplit(store.endpoint)
        annotations["serving.kserve.io/s3-endpoint"] = url.netloc
        annotations["serving.kserve.io/s3-usehttps"] = "1" if url.scheme == "https" else "0"
        annotations["serving.kserve.io/s3-usevirtualbucket"] = "false"
    return k8s.core.v1.SecretInitArgs(
        metadata=scope.metadata(store.secret_name, annotations=annotations),
        type="Opaque",
        string_data=dict(zip(S3_KEYS, keys, strict=True)),
    )


def hub_secret_args(scope: Scope, token: pulumi.Input[str]) -> k8s.core.v1.SecretInitArgs:
    return k8s.core.v1.SecretInitArgs(metadata=scope.metadata(HUB_SECRET), type="Opaque", string_data={HUB_KEY: token})


class Credentials(pulumi.ComponentResource):
    """The Secret of each S3 store, and the Hub's where there is a token."""

    def __init__(self, name: str, scope: Scope, access: Access, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("llm-serving:kubernetes:Credentials", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        for store in access.stores.values():
            if store.s3_keys is not None:
                k8s.core.v1.Secret(f"{name}-{store.name}", store_secret_args(scope, store, store.s3_keys), child)
        if access.hub_token is not None:
            k8s.core.v1.Secret(f"{name}-hub", hub_secret_args(scope, access.hub_token), child)
        self.register_outputs({})
