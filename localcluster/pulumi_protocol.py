"""The gRPC stubs of Pulumi's SDK without the SDK around them: a plugin needs the protocol only, and starts faster."""

import importlib.util
import sys
import types


def load_protocol_only() -> None:
    """Makes `pulumi.runtime.proto` importable without running `pulumi` itself, which costs a third of a second.

    For a process that is a plugin and nothing else: after this, the rest of the SDK can't be imported in it.
    """
    spec = importlib.util.find_spec("pulumi")
    if spec is None or spec.submodule_search_locations is None or "pulumi" in sys.modules:
        return
    (folder,) = spec.submodule_search_locations
    for name, path in (("pulumi", folder), ("pulumi.runtime", f"{folder}/runtime")):
        package = types.ModuleType(name)
        package.__path__ = [path]
        sys.modules[name] = package
