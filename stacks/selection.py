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
    return yaml.safe_dump(content, sort_keys=False, allow_unicode=True)
