"""From settings to each model's plan: the only place where the stack file meets the recipes."""

import re
from collections.abc import Callable

from engine_jobs.errors import UserError
from engine_jobs.images import content_tag
from engine_jobs.recipe import Model, Plan, Platform, Question, Source
from engine_jobs.recipes import recipes
from stacks.settings import ImageSettings, ModelSettings, PlatformSettings

COMMIT = re.compile(r"[0-9a-f]{40}")

Resolve = Callable[[str, str], str]
"""A model id and a revision, as the stack file has them -> the commit."""


def as_written(_: str, revision: str) -> str:
    """For what is rendered without a network: a branch stays a branch's name, and so the content address is not the one that
    an `up` computes, unless the stack file pins a commit."""
    return revision


def image_reference(images: ImageSettings, name: str) -> str:
    return images.pinned.get(name) or f"{images.registry}/{name}:{content_tag(name)}"


def recipe_platform(platform: PlatformSettings) -> Platform:
    return Platform(
        image=lambda name: image_reference(platform.images, name),
        store=platform.store.url,
        namespace=platform.namespace,
        hub_endpoint=platform.hub.endpoint,
    )


def plan_model(name: str, settings: ModelSettings, platform: PlatformSettings, resolve: Resolve) -> Plan:
    """The plan of one model. Raises UserError, with the model's name, for what can't be resolved or built."""
    source, question, resources = settings.source, settings.smoke_test, settings.resources
    try:
        revision = source.revision if COMMIT.fullmatch(source.revision) else resolve(source.id, source.revision)
        model = Model(
            name=name,
            source=Source(model=source.id, revision=revision),
            question=Question(prompt=question.prompt, max_tokens=question.max_tokens, expect=question.expect),
            job_resources=resources.jobs.resources(),
            predictor_resources=resources.predictor.resources(),
            transformer_resources=resources.transformer.resources(),
            gpu_architecture=settings.gpu_architecture,
        )
        return recipes()[settings.recipe.name].plan(model, settings.recipe, recipe_platform(platform))
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error
