"""A part of a stack: its stack file with some of its models, by name or by recipe."""

from collections.abc import Collection
from pathlib import Path

import yaml

from engine_jobs.errors import UserError
from stacks.settings import PROJECT, parse_settings, read_stack_file

ALL = "all"


def select(file: Path, wanted: Collection[str]) -> str:
    """The stack file's text with the models that are named, or whose recipe is; ALL for every one. Raises UserError for a name
    that is neither."""
    models = parse_settings(read_stack_file(file), file).models
    known = {*models, *(model.recipe.name for model in models.values()), ALL}
    unknown = sorted(set(wanted) - known)
    if unknown:
        raise UserError(f"{file}: no model or recipe is called {', '.join(unknown)}; known: {', '.join(sorted(known))}")
    kept = {name for name, model in models.items() if ALL in wanted or {name, model.recipe.name}.intersection(wanted)}
    content = yaml.safe_load(file.read_text())
    key = f"{PROJECT}:models"
    content["config"][key] = {name: model for name, model in content["config"][key].items() if name in kept}
    return str(yaml.dump(content, Dumper=_Dumper, sort_keys=False, allow_unicode=True, width=10_000))


class _Dumper(yaml.SafeDumper):
    """Texts with line breaks in double quotes: of other forms Pulumi's YAML library drops a break at the beginning."""

    def represent_text(self, text: str) -> yaml.ScalarNode:
        return self.represent_scalar("tag:yaml.org,2002:str", text, style='"' if "\n" in text else None)


_Dumper.add_representer(str, _Dumper.represent_text)
