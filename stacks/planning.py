"""From settings to each model's plan: the only place where the stack file meets the recipes."""

import dataclasses
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass

from engine_jobs.errors import UserError
from engine_jobs.images import content_tag
from engine_jobs.lifecycle import Status
from engine_jobs.recipe import ImageReference, Model, Plan, Platform, Question, Source
from engine_jobs.recipes import recipes
from engine_jobs.smoke_test.decode import Json
from stacks.gpus import gpu
from stacks.settings import ImageSettings, LifecycleSettings, ModelSettings, Settings, SourceSettings

JOBS_IMAGE = "jobs"
SMOKE_TEST_IMAGE = "smoke-test"
"""What every stack runs, whatever its recipes."""

COMMIT = re.compile(r"[0-9a-f]{40}")


@dataclass(frozen=True, kw_only=True)
class Hub:
    """What is asked of the Hub about a model id and a revision: `commit` of a branch or tag, and the model's `config` (the content
    of config.json)."""

    commit: Callable[[str, str], str]
    config: Callable[[str, str], Mapping[str, Json] | None]


NO_HUB = Hub(commit=lambda _, revision: revision, config=lambda *_: None)
"""For what is rendered without a network: a branch stays a branch's name, and so the content address is not the one that an `up`
computes, unless the stack file pins a commit; and nothing is checked that needs the model's configuration."""


def image_reference(images: ImageSettings, name: str, arguments: Mapping[str, str] | None = None) -> str:
    return images.pinned.get(name) or f"{images.registry}/{name}:{content_tag(name, arguments or {})}"


def image_names(settings: Settings) -> list[str]:
    """The project's images that a stack's pods run, by name, each once; without those that are pinned to another reference."""
    unresolved = settings.platform.images.model_copy(update={"registry": "", "pinned": {}})
    asked: set[str] = {JOBS_IMAGE, SMOKE_TEST_IMAGE}

    def note(name: str, arguments: Mapping[str, str] | None = None, /) -> str:
        asked.add(name)
        return image_reference(unresolved, name, arguments)

    for name, model in settings.models.items():
        _plan_model(name, model, settings, NO_HUB, note)
    return sorted(asked - settings.platform.images.pinned.keys())


def plan_models(settings: Settings, hub: Hub) -> dict[str, Plan]:
    """The plan of each model. Raises UserError, with the model's name, for what can't be resolved or built."""

    def image(name: str, arguments: Mapping[str, str] | None = None, /) -> str:
        return image_reference(settings.platform.images, name, arguments)

    return {name: _plan_model(name, model, settings, hub, image) for name, model in settings.models.items()}


def _plan_model(name: str, settings: ModelSettings, stack: Settings, hub: Hub, image: ImageReference) -> Plan:
    platform, resources = stack.platform, settings.resources
    try:
        model = Model(
            name=name,
            sources={served: _source(source, hub) for served, source in settings.named_sources(name).items()},
            questions=tuple(
                Question(prompt=q.prompt, max_tokens=q.max_tokens, expect=q.expect, model=q.model)
                for q in settings.questions
            ),
            job_resources=resources.jobs.resources(),
            predictor_resources=resources.predictor.resources(),
            transformer_resources=resources.transformer.resources(),
            store=stack.store_of(settings).url,
            gpu=gpu(settings.gpu, platform.gpu_node_label) if settings.gpu else None,
            disk_claim=disk_claim(name) if settings.disk else None,
        )
        recipe_platform = Platform(
            image=image,
            namespace=platform.namespace,
            hub_endpoint=platform.hub.endpoint,
        )
        plan = recipes()[settings.recipe.name].plan(model, settings.recipe, recipe_platform)
        return _with_lifecycle(plan, platform.lifecycle)
    except UserError as error:
        raise UserError(f"models.{name}: {error}") from error


def disk_claim(model: str) -> str:
    """The PersistentVolumeClaim of a model's own disk."""
    return f"{model}-disk"


def _source(source: SourceSettings, hub: Hub) -> Source:
    pinned = COMMIT.fullmatch(source.revision) is not None
    revision = source.revision if pinned else hub.commit(source.id, source.revision)
    return Source(model=source.id, revision=revision, config=hub.config(source.id, revision))


def _with_lifecycle(plan: Plan, policy: LifecycleSettings) -> Plan:
    """The plan with a warning about a runtime that is no longer kept. Raises UserError where the stack forbids it."""
    lifecycle = plan.lifecycle
    if lifecycle.status in policy.forbid:
        raise UserError(f"platform.lifecycle forbids it: {lifecycle.text()}")
    if lifecycle.status is Status.SUPPORTED:
        return plan
    return dataclasses.replace(plan, warnings=(*plan.warnings, lifecycle.text()))
