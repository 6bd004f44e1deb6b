"""The Secrets of a models' namespace: the artifact store's keys and the Hub's token.

Values arrive as secret Outputs and stay so: encrypted in the state, absent from previews, and in the cluster only in these Secrets;
pods name the Secret, never the value.
"""

from dataclasses import dataclass
from urllib.parse import urlsplit

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.metadata import Scope

STORE_SECRET = "store-credentials"
HUB_SECRET = "hub-token"
HUB_KEY = "HF_TOKEN"
STORE_KEYS = ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")


@dataclass(frozen=True, kw_only=True)
class Access:
    """How pods reach the artifact store, and the Hub. `endpoint` None: AWS's own; `hub_token` None: no gated model."""

    region: str
    endpoint: str | None
    access_key_id: pulumi.Input[str]
    secret_access_key: pulumi.Input[str]
    hub_token: pulumi.Input[str] | None


def store_environment(access: Access, *, hub: bool) -> list[k8s.core.v1.EnvVarArgs]:
    """What boto3 and huggingface_hub look for in a pod; secrets by reference. `hub`: the Hub's token too, where there is one."""
    env = [_from_secret(key, STORE_SECRET) for key in STORE_KEYS]
    env.append(k8s.core.v1.EnvVarArgs(name="AWS_REGION", value=access.region))
    if access.endpoint:
        env.append(k8s.core.v1.EnvVarArgs(name="AWS_ENDPOINT_URL_S3", value=access.endpoint))
    if hub and access.hub_token is not None:
        env.append(_from_secret(HUB_KEY, HUB_SECRET))
    return env


def _from_secret(key: str, secret: str) -> k8s.core.v1.EnvVarArgs:
    reference = k8s.core.v1.SecretKeySelectorArgs(name=secret, key=key)
    return k8s.core.v1.EnvVarArgs(name=key, value_from=k8s.core.v1.EnvVarSourceArgs(secret_key_ref=reference))


def store_secret_args(scope: Scope, access: Access) -> k8s.core.v1.SecretInitArgs:
    """The store's keys, with the annotations that KServe's storage initializer reads (serving.kserve.io/s3-*)."""
    annotations = {"serving.kserve.io/s3-region": access.region}
    if access.endpoint:
        url = urlsplit(access.endpoint)
        annotations["serving.kserve.io/s3-endpoint"] = url.netloc
        annotations["serving.kserve.io/s3-usehttps"] = "1" if url.scheme == "https" else "0"
        annotations["serving.kserve.io/s3-usevirtualbucket"] = "false"
    return k8s.core.v1.SecretInitArgs(
        metadata=scope.metadata(STORE_SECRET, annotations=annotations),
        type="Opaque",
        string_data={STORE_KEYS[0]: access.access_key_id, STORE_KEYS[1]: access.secret_access_key},
    )


def hub_secret_args(scope: Scope, token: pulumi.Input[str]) -> k8s.core.v1.SecretInitArgs:
    return k8s.core.v1.SecretInitArgs(metadata=scope.metadata(HUB_SECRET), type="Opaque", string_data={HUB_KEY: token})


class Credentials(pulumi.ComponentResource):
    """The store's Secret, and the Hub's where there is a token."""

    def __init__(self, name: str, scope: Scope, access: Access, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("llm-serving:kubernetes:Credentials", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        k8s.core.v1.Secret(f"{name}-store", store_secret_args(scope, access), child)
        if access.hub_token is not None:
            k8s.core.v1.Secret(f"{name}-hub", hub_secret_args(scope, access.hub_token), child)
        self.register_outputs({})
