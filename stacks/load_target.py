"""`make load` and `make tune`: a model of a stack, by name, as what `engine_jobs.load` measures.

    python -m stacks.load_target sweep --stack local --model tiny-llama --concurrency 1,2,4,8,16
    python -m stacks.load_target tune --stack local --model tiny-falcon --p99-ms 2000
    python -m stacks.load_target sweep --stack prod --model llama-2-7b --job | kubectl create -f -

All further arguments are those of `python -m engine_jobs.load sweep` (or `tune`), whose --help lists them. What is asked is a probe of the
model's smoke test, at the model's own address, so nothing of a recipe is known here; nothing is asked of the Hub or a cluster.
"""

import argparse
import dataclasses
import datetime
from collections.abc import Sequence
from pathlib import Path

import yaml

from engine_jobs.errors import UserError, run
from engine_jobs.load.__main__ import main as load
from engine_jobs.load.job import IMAGE, load_job, manifest
from engine_jobs.load.spec import Tuning, Workload, to_json
from engine_jobs.load.workload import choose_probe, pointer_to
from engine_jobs.recipe import Plan
from engine_jobs.smoke_test.spec import GrpcProbe, HttpProbe, UrlTarget
from stacks.planning import NO_HUB, image_reference, plan_models
from stacks.settings import Settings, parse_settings, read_stack_file, stack_file

RESULTS = Path("load-results")
"""Where results go if nothing else is said; git ignores it."""

JOB_TIMEOUT_S = 4 * 3600


def load_workload(
    settings: Settings, stack: str, model: str, plan: Plan, *, probe: str | None = None, gateway: str | None = None
) -> Workload:
    """What a load test asks of a model, through `gateway` (the stack's address for you, if None). Raises UserError where no probe
    of its smoke test can be a load."""
    platform, entry = settings.platform, settings.models[model]
    chosen = _at_model_address(choose_probe(plan.smoke_test(model).probes, probe), plan)
    prompts = [question.prompt for question in entry.questions]
    return Workload(
        name=model,
        target=UrlTarget(
            url=gateway or platform.gateway.address, host=f"{model}-{platform.namespace}.{platform.gateway.domain}"
        ),
        probe=chosen,
        prompt=_prompt_place(chosen, prompts),
        about=_about(settings, stack, model, plan),
    )


def choose_tuning(model: str, plan: Plan, name: str | None) -> Tuning:
    """The model of the server that is tuned: the one of this name, or the only one. Raises UserError where there is none, or more."""
    names = ", ".join(repr(each.model) for each in plan.tuning)
    if not plan.tuning:
        raise UserError(
            f"{model}: its server does not allow its settings to be searched. Of a recipe that has them, they can be where its "
            "Triton runs in explicit model control"
        )
    found = [each for each in plan.tuning if name in (None, each.model)]
    if not found:
        raise UserError(f"{model}: no model {name!r} to tune in its server; there are {names}")
    if len(found) > 1:
        raise UserError(f"{model}: its server has several models; say which to tune with --served-model: {names}")
    return found[0]


def _at_model_address(probe: HttpProbe | GrpcProbe, plan: Plan) -> HttpProbe | GrpcProbe:
    """The probe as it is asked at the model's own address, where gRPC goes to the predictor and all else to the front: the
    transformer, if there is one. Raises UserError for a component that is not behind it."""
    front = "transformer" if plan.service.transformer else "predictor"
    reached = "predictor" if isinstance(probe, GrpcProbe) else front
    if probe.component not in (None, reached):
        raise UserError(
            f"the probe {probe.name!r} asks the {probe.component}, and the model's address leads to the {reached}: choose another "
            "with --probe"
        )
    return dataclasses.replace(probe, component=None)


def _prompt_place(probe: HttpProbe | GrpcProbe, prompts: Sequence[str]) -> str | None:
    """Where the request has one of the smoke test's prompts: a JSON pointer, or a tensor's name."""
    if isinstance(probe, HttpProbe):
        places = (pointer_to(probe.body, prompt) for prompt in prompts)
        return next((place for place in places if place is not None), None)
    return next((each.name for each in probe.inputs if each.datatype == "BYTES" and each.data[0] in prompts), None)


def _about(settings: Settings, stack: str, model: str, plan: Plan) -> dict[str, str]:
    """What a report says of the model and its server."""
    entry = settings.models[model]
    sources = entry.named_sources(model)
    resources = plan.service.resources
    gpus = f", {resources.gpus} x {entry.gpu}" if resources.gpus else ""
    return {
        "model": f"{model}: " + ", ".join(f"{source.id} at {source.revision}" for source in sources.values()),
        "stack": stack,
        "recipe": entry.recipe.name,
        "server's image": plan.runtime.image,
        **({"transformer's image": plan.service.transformer.image} if plan.service.transformer else {}),
        "server's resources": f"cpu {resources.cpu_limit or resources.cpu}, memory {resources.memory}{gpus}",
    }


def main(argv: Sequence[str]) -> None:
    parser = argparse.ArgumentParser(
        prog="python -m stacks.load_target",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("command", choices=("sweep", "tune"))
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--stack", help="a stack of stacks/, by name")
    which.add_argument("--file", type=Path, help="a stack file anywhere")
    parser.add_argument("--model", required=True, help="the model's name in the stack file")
    parser.add_argument(
        "--probe", metavar="NAME", help="the smoke test's probe to ask (default: the last with an answer)"
    )
    parser.add_argument("--served-model", metavar="NAME", help="tune: which of the server's models")
    parser.add_argument("--job", action="store_true", help="print a Kubernetes Job that does it, in place of doing it")
    options, rest = parser.parse_known_args(argv)

    file = options.file or stack_file(options.stack)
    stack = options.stack or file.stem.removeprefix("Pulumi.")
    settings = parse_settings(read_stack_file(file), file)
    if options.model not in settings.models:
        raise UserError(f"{file}: no model {options.model!r}; models: {', '.join(sorted(settings.models))}")
    alone = settings.model_copy(update={"models": {options.model: settings.models[options.model]}})
    plan = plan_models(alone, NO_HUB)[options.model]

    arguments: list[str] = []
    probe = options.probe
    if options.command == "tune":
        tuning = choose_tuning(options.model, plan, options.served_model)
        arguments += ["--tuning-json", to_json(tuning)]
        probe = probe or tuning.probe
    gateway = settings.platform.gateway.cluster_address if options.job else None
    workload = load_workload(settings, stack, options.model, plan, probe=probe, gateway=gateway)
    arguments = ["--workload-json", to_json(workload), *arguments, *rest]
    if options.job:
        print(_job(settings, options.command, options.model, arguments), end="")
        return
    if not any(each == "--out" or each.startswith("--out=") for each in rest):
        arguments += ["--out", str(results_folder(options.command, options.model))]
    load([options.command, *arguments])


def results_folder(command: str, model: str) -> Path:
    """A new folder for each run."""
    what = "" if command == "sweep" else f"-{command}"
    return RESULTS / f"{model}{what}-{datetime.datetime.now():%Y%m%d-%H%M%S}"


def _job(settings: Settings, command: str, model: str, arguments: Sequence[str]) -> str:
    spec = load_job(
        image=image_reference(settings.platform.images, IMAGE),
        command=command,
        arguments=arguments,
        timeout_seconds=JOB_TIMEOUT_S,
    )
    body = manifest(spec, model=model, namespace=settings.platform.namespace)
    text: str = yaml.safe_dump(body, sort_keys=False, width=120, allow_unicode=True)
    return text


if __name__ == "__main__":
    run(main)
