"""The invoke `kubernetes:yaml:decode`, which the SDK's yaml.ConfigFile and ConfigGroup are made of."""

import yaml

from localcluster.pulumi_resource_kubernetes.errors import ProviderError
from localcluster.pulumi_resource_kubernetes.objects import api_version_of, kind_of
from localcluster.pulumi_resource_kubernetes.session import Session
from localcluster.pulumi_resource_kubernetes.values import Object


class _Loader(yaml.SafeLoader):
    """YAML as Kubernetes reads it: a date is a string."""


_Loader.yaml_implicit_resolvers = {
    first: [(tag, pattern) for tag, pattern in resolvers if tag != "tag:yaml.org,2002:timestamp"]
    for first, resolvers in yaml.SafeLoader.yaml_implicit_resolvers.items()
}


def decode(text: str, default_namespace: str, session: Session) -> list[Object]:
    """The objects of a YAML text with several documents; a default namespace goes to those that need one."""
    try:
        documents = list(yaml.load_all(text, Loader=_Loader))
    except yaml.YAMLError as error:
        raise ProviderError(f"the YAML can't be read: {error}") from None
    objects = [
        document
        for document in documents
        if isinstance(document, dict) and api_version_of(document) and kind_of(document)
    ]
    for obj in objects:
        session.scopes.learn(obj)
        if default_namespace:
            session.scopes.place(obj, session.cluster_or_none(), default_namespace)
    return objects
