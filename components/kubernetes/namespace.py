"""The models' namespace with the identities that act in it.

ServiceAccounts, each with what it needs: `builder` (build Jobs: the stores, no Kubernetes API), `predictor-<store>` (what serves:
reads that store through KServe's storage initializer) and `smoke-test` (reads InferenceServices and their pods).
"""

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.credentials import Access, Credentials, StoreAccess
from components.kubernetes.metadata import Scope

BUILDER = "builder"
SMOKE_TEST = "smoke-test"


@dataclass(frozen=True, kw_only=True)
class ModelNamespaceArgs:
    scope: Scope
    access: Access


def namespace_args(scope: Scope) -> k8s.core.v1.NamespaceInitArgs:
    return k8s.core.v1.NamespaceInitArgs(metadata=scope.metadata(scope.namespace, cluster_wide=True))


def predictor_account(store: str) -> str:
    """The ServiceAccount of what serves from the store of this name."""
    return f"predictor-{store}"


def service_account_args(
    scope: Scope, name: str, *, kubernetes_api: bool = False, secret: str | None = None
) -> k8s.core.v1.ServiceAccountInitArgs:
    """`secret`: where KServe's storage initializer finds the S3 credentials of a pod of this account."""
    secrets = [k8s.core.v1.ObjectReferenceArgs(name=secret)] if secret else None
    return k8s.core.v1.ServiceAccountInitArgs(
        metadata=scope.metadata(name), secrets=secrets, automount_service_account_token=kubernetes_api
    )


def predictor_account_args(scope: Scope, store: StoreAccess) -> k8s.core.v1.ServiceAccountInitArgs:
    return service_account_args(scope, predictor_account(store.name), secret=store.secret_name if store.is_s3 else None)


def smoke_test_role_args(scope: Scope) -> k8s.rbac.v1.RoleInitArgs:
    read = ["get", "list", "watch"]
    return k8s.rbac.v1.RoleInitArgs(
        metadata=scope.metadata(SMOKE_TEST),
        rules=[
            k8s.rbac.v1.PolicyRuleArgs(api_groups=["serving.kserve.io"], resources=["inferenceservices"], verbs=read),
            k8s.rbac.v1.PolicyRuleArgs(api_groups=["apps"], resources=["deployments"], verbs=read),
            k8s.rbac.v1.PolicyRuleArgs(api_groups=[""], resources=["pods"], verbs=read),
            k8s.rbac.v1.PolicyRuleArgs(api_groups=[""], resources=["configmaps"], verbs=["create", "get", "update"]),
        ],
    )


def smoke_test_role_binding_args(scope: Scope) -> k8s.rbac.v1.RoleBindingInitArgs:
    return k8s.rbac.v1.RoleBindingInitArgs(
        metadata=scope.metadata(SMOKE_TEST),
        role_ref=k8s.rbac.v1.RoleRefArgs(api_group="rbac.authorization.k8s.io", kind="Role", name=SMOKE_TEST),
        subjects=[k8s.rbac.v1.SubjectArgs(kind="ServiceAccount", name=SMOKE_TEST, namespace=scope.namespace)],
    )


class ModelNamespace(pulumi.ComponentResource):
    """The namespace, its secrets, ServiceAccounts and the smoke test's Role."""

    def __init__(self, name: str, args: ModelNamespaceArgs, opts: pulumi.ResourceOptions | None = None) -> None:
        super().__init__("llm-serving:kubernetes:ModelNamespace", name, None, opts)
        scope = args.scope
        namespace = k8s.core.v1.Namespace(
            f"{name}-namespace", namespace_args(scope), pulumi.ResourceOptions(parent=self)
        )
        inside = pulumi.ResourceOptions(parent=self, depends_on=[namespace])
        Credentials(f"{name}-credentials", scope, args.access, inside)
        k8s.core.v1.ServiceAccount(f"{name}-{BUILDER}", service_account_args(scope, BUILDER), inside)
        asking = service_account_args(scope, SMOKE_TEST, kubernetes_api=True)
        k8s.core.v1.ServiceAccount(f"{name}-{SMOKE_TEST}", asking, inside)
        for store in args.access.stores.values():
            account = predictor_account_args(scope, store)
            k8s.core.v1.ServiceAccount(f"{name}-{predictor_account(store.name)}", account, inside)
        role = k8s.rbac.v1.Role(f"{name}-smoke-test-role", smoke_test_role_args(scope), inside)
        k8s.rbac.v1.RoleBinding(
            f"{name}-smoke-test-role-binding",
            smoke_test_role_binding_args(scope),
            pulumi.ResourceOptions(parent=self, depends_on=[role]),
        )
        self.register_outputs({"namespace": namespace.metadata.name})
