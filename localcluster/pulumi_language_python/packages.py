"""What is installed in a program's Python: Pulumi packages with plugins, and distributions with their versions."""

from dataclasses import dataclass

from localcluster.pulumi_language_python.interpreter import Interpreter

_LIST_PLUGINS = """
import json, pathlib, sys
found = {}
for folder in sys.path:
    for path in pathlib.Path(folder).glob("*/pulumi-plugin.json") if folder else ():
        found.setdefault(path.parent.name, json.loads(path.read_text()))
print(json.dumps(list(found.values())))
"""
_LIST_DISTRIBUTIONS = """
import importlib.metadata, json
print(json.dumps(sorted({(d.metadata["Name"], d.version) for d in importlib.metadata.distributions()})))
"""


@dataclass(frozen=True, kw_only=True)
class Plugin:
    """A resource plugin that a Python package declares in its pulumi-plugin.json."""

    name: str
    version: str
    server: str


def required_plugins(interpreter: Interpreter) -> list[Plugin]:
    """The resource plugins of the installed Pulumi packages."""
    return [
        Plugin(
            name=str(entry["name"]),
            version="v" + str(entry.get("version", "")).removeprefix("v") if entry.get("version") else "",
            server=str(entry.get("server", "")),
        )
        for entry in interpreter.evaluate(_LIST_PLUGINS)
        if entry.get("resource") and entry.get("name")
    ]


def distributions(interpreter: Interpreter) -> list[tuple[str, str]]:
    """(name, version) of every installed distribution."""
    return [(str(name), str(version)) for name, version in interpreter.evaluate(_LIST_DISTRIBUTIONS)]
