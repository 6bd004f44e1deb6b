"""The models' namespace with the identities that act in it.

Three ServiceAccounts, each with what it needs: `builder` (build Jobs: the store, no Kubernetes API), `predictor` (what serves: reads
the store through KServe's storage initializer) and `smoke-test` (reads InferenceServices and their pods).
"""

from dataclasses import dataclass

import pulumi
import pulumi_kubernetes as k8s

from components.kubernetes.credentials import STORE_SECRET, Access, Credentials
from components.kubernetes.metadata import Scope

BUILDER = "builder"
PREDICTOR = "predictor"
SMOKE_TEST = "smoke-test"


@dataclass(frozen=True, kw_only=True)
class ModelNamespaceArgs:
    scope: Scope
    access: Access


def namespace_args(scope: Scope) -> k8s.core.v1.NamespaceInitArgs:
    return k8s.core.v1.NamespaceInitArgs(metadata=scope.metadata(scope.namespace, cluster_wide=True))


def service_account_args(scope: Scope, name: str) -> k8s.core.v1.ServiceAccountInitArgs:
    """KServe's storage initializer takes its S3 credentials from the secrets that the predictor's ServiceAccount lists."""
    secrets = [k8s.core.v1.ObjectReferenceArgs(name=STORE_SECRET)] if name == PREDICTOR else None
    return k8s.core.v1.ServiceAccountInitArgs(
        metadata=scope.metadata(name), secrets=secrets, automount_service_account_token=name == SMOKE_TEST
    )


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
        for account in (BUILDER, PREDICTOR, SMOKE_TEST):
            k8s.core.v1.ServiceAccount(f"{name}-{account}", service_account_args(scope, account), inside)
        role = k8s.rbac.v1.Role(f"{name}-smoke-test-role", smoke_test_role_args(scope), inside)
        k8s.rbac.v1.RoleBinding(
            f"{name}-smoke-test-role-binding",
            smoke_test_role_binding_args(scope),
            pulumi.ResourceOptions(parent=self, depends_on=[role]),
        )
        self.register_outputs({"namespace": namespace.metadata.name})
