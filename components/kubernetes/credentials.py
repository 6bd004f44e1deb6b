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
class CredentialsArgs:
    """`hub_token` None: no gated model can be fetched. `store_endpoint` None: AWS's own."""

    scope: Scope
    store_access_key_id: pulumi.Input[str]
    store_secret_access_key: pulumi.Input[str]
    store_region: str
    store_endpoint: str | None
    hub_token: pulumi.Input[str] | None


def store_secret_args(args: CredentialsArgs) -> k8s.core.v1.SecretInitArgs:
    """The store's keys, with the annotations that KServe's storage initializer reads (serving.kserve.io/s3-*)."""
    annotations = {"serving.kserve.io/s3-region": args.store_region}
    if args.store_endpoint:
        url = urlsplit(args.store_endpoint)
        annotations["serving.kserve.io/s3-endpoint"] = url.netloc
        annotations["serving.kserve.io/s3-usehttps"] = "1" if url.scheme == "https" else "0"
        annotations["serving.kserve.io/s3-usevirtualbucket"] = "false"
    return k8s.core.v1.SecretInitArgs(
        metadata=args.scope.metadata(STORE_SECRET, annotations=annotations),
        type="Opaque",
        string_data={STORE_KEYS[0]: args.store_access_key_id, STORE_KEYS[1]: args.store_secret_access_key},
    )


def hub_secret_args(scope: Scope, token: pulumi.Input[str]) -> k8s.core.v1.SecretInitArgs:
    return k8s.core.v1.SecretInitArgs(metadata=scope.metadata(HUB_SECRET), type="Opaque", string_data={HUB_KEY: token})


class Credentials(pulumi.ComponentResource):
    """The store's Secret, and the Hub's where there is a token."""

    def __init__(self, name: str, args: CredentialsArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("llm-serving:kubernetes:Credentials", name, None, opts)
        child = pulumi.ResourceOptions(parent=self)
        k8s.core.v1.Secret(f"{name}-store", store_secret_args(args), child)
        if args.hub_token is not None:
            k8s.core.v1.Secret(f"{name}-hub", hub_secret_args(args.scope, args.hub_token), child)
        self.register_outputs({})
