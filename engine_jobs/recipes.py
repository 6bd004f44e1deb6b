"""Finds the recipes: every folder of engine_jobs with a `recipe.py` that defines `RECIPE`. A new one is registered by being there."""

import importlib
import pkgutil
from functools import cache
from typing import Any

import engine_jobs
from engine_jobs.recipe import Recipe


@cache
def recipes() -> dict[str, Recipe[Any]]:
    """Each recipe by the name that a stack file gives it (its settings' `name`)."""
    found: dict[str, Recipe[Any]] = {}
    for package in pkgutil.iter_modules(engine_jobs.__path__):
        if not package.ispkg:
            continue
        folder = importlib.import_module(f"engine_jobs.{package.name}")
        if not any(module.name == "recipe" for module in pkgutil.iter_modules(folder.__path__)):
            continue
        recipe: Recipe[Any] = importlib.import_module(f"engine_jobs.{package.name}.recipe").RECIPE
        (name,) = recipe.settings.model_fields["name"].annotation.__args__  # type: ignore[union-attr]
        found[name] = recipe
    return found
