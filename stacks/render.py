"""All that a stack would make, as YAML, from the same program: no engine, cluster, network or credentials."""

import asyncio
import runpy
from pathlib import Path
from typing import Any

import pulumi
import yaml
from pulumi.runtime import MockCallArgs, MockResourceArgs, Mocks, set_mocks
from pulumi.runtime.rpc import is_rpc_secret, unwrap_rpc_secret

from engine_jobs.errors import UserError
from stacks.inputs import for_rendering
from stacks.planning import plan_models
from stacks.settings import PROJECT, read_stack_file

_FIRST = {"apiVersion": 0, "kind": 1, "metadata": 2, "name": 3}

ARTIFACT_FILES = "ArtifactFiles"
"""The `kind` of what is no Kubernetes object: files by their paths in a model's artifact."""

PROGRAM = Path(__file__).parent.parent / "__main__.py"


class _Recorder(Mocks):
    """Stands where the engine would: answers each resource with its own inputs and keeps those of Kubernetes kinds."""

    def __init__(self) -> None:
        self.objects: list[dict[str, Any]] = []

    def new_resource(self, args: MockResourceArgs) -> tuple[str | None, dict[Any, Any]]:
        if args.typ.startswith("kubernetes:") and args.custom and not args.resource_id:
            self.objects.append(args.inputs)
        metadata = args.inputs.get("metadata", {})
        return f"{metadata.get('namespace', '')}/{metadata.get('name', args.name)}", args.inputs

    def call(self, args: MockCallArgs) -> tuple[dict[Any, Any], list[tuple[str, str]] | None]:
        raise UserError(f"the program calls {args.token}, which nothing can answer without an engine")


def render(stack: str, file: Path) -> list[dict[str, Any]]:
    """Every Kubernetes object, in the order of kind, namespace and name; then, for each model, the configuration files that its
    build writes into its artifact. Raises UserError for a mistake in the stack file."""
    inputs = for_rendering(stack, file, read_stack_file(file))
    # Pulumi's runtime takes the thread's event loop, and whoever ran one before in this process took it away with it.
    asyncio.set_event_loop(asyncio.new_event_loop())
    recorder = _Recorder()
    set_mocks(recorder, project=PROJECT, stack=stack, preview=False)
    deploy = runpy.run_path(str(PROGRAM), run_name=PROJECT)["deploy"]

    pulumi.runtime.test(lambda: deploy(inputs))()  # type: ignore[no-untyped-call]
    files = [
        {"kind": ARTIFACT_FILES, "model": name, "artifact": plan.build.artifact.path, "files": dict(plan.files)}
        for name, plan in plan_models(inputs.settings, inputs.hub).items()
        if plan.files
    ]
    return [*sorted(recorder.objects, key=_order), *files]


class _Dumper(yaml.SafeDumper):
    """Texts of several lines stay as they are written."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style="|" if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)


def to_yaml(documents: list[dict[str, Any]]) -> str:
    tidy = map(_tidy, documents)
    return str(yaml.dump_all(tidy, Dumper=_Dumper, sort_keys=False, width=120, allow_unicode=True, explicit_start=True))


def _tidy(value: Any) -> Any:
    """Keys sorted, behind those that name an object; whole numbers as such (the engine's protocol knows only doubles)."""
    match value:
        case dict() if is_rpc_secret(value):
            return _tidy(unwrap_rpc_secret(value))
        case dict():
            return {key: _tidy(value[key]) for key in sorted(value, key=lambda k: (_FIRST.get(k, len(_FIRST)), k))}
        case list():
            return [_tidy(item) for item in value]
        case float() if value.is_integer():
            return int(value)
        case _:
            return value


def _order(body: dict[str, Any]) -> tuple[str, str, str]:
    metadata = body.get("metadata", {})
    return body.get("kind", ""), metadata.get("namespace", ""), metadata.get("name", "")
