"""A model of a stack, by name, as what is measured: any recipe's smoke test will do."""

import dataclasses
from pathlib import Path

import pytest
import yaml

from components.kserve.model_route import route_host
from components.kubernetes.metadata import Scope
from engine_jobs.errors import UserError
from engine_jobs.load.spec import Tuning, Workload, from_json
from engine_jobs.load.workload import found
from engine_jobs.recipe import Plan
from engine_jobs.smoke_test.spec import HttpProbe, UrlTarget
from stacks.load_target import choose_tuning, load_workload, main
from stacks.planning import NO_HUB, plan_models
from stacks.settings import Settings, parse_settings, read_stack_file, stack_file


@pytest.fixture(scope="module")
def settings() -> Settings:
    return parse_settings(read_stack_file(stack_file("local")), "local")


@pytest.fixture(scope="module")
def plans(settings: Settings) -> dict[str, Plan]:
    return plan_models(settings, NO_HUB)


class TestAWorkload:
    def test_every_model_of_the_local_stack_is_one(self, settings: Settings, plans: dict[str, Plan]) -> None:
        for name, plan in plans.items():
            workload = load_workload(settings, "local", name, plan)
            assert isinstance(workload.target, UrlTarget)
            scope = Scope(stack="local", namespace=settings.platform.namespace)
            assert workload.target.host == route_host(scope, name, settings.platform.gateway.domain)
            assert workload.target.url == settings.platform.gateway.address
            assert isinstance(workload.probe, HttpProbe)
            assert workload.prompt is not None
            prompts = [question.prompt for question in settings.models[name].questions]
            assert found(workload.probe.body, workload.prompt) in prompts
            assert workload.about["server's image"] == plan.runtime.image

    def test_a_probe_can_be_chosen_by_its_name(self, settings: Settings, plans: dict[str, Plan]) -> None:
        plan = plans["tiny-bloom"]
        assert load_workload(settings, "local", "tiny-bloom", plan, probe="gRPC").probe.name == "gRPC"
        with pytest.raises(UserError, match=r"no probe 'generate' .* 'gRPC', 'predict'"):
            load_workload(settings, "local", "tiny-bloom", plan, probe="generate")

    def test_a_component_that_is_not_behind_the_model_s_address_is_refused(
        self, settings: Settings, plans: dict[str, Plan]
    ) -> None:
        plan = plans["tiny-bloom"]
        test = plan.smoke_test("x")
        probe = HttpProbe(name="p", path="/x", method="POST", body={}, answer="/0", component="predictor")
        changed = dataclasses.replace(plan, smoke_test=lambda name: dataclasses.replace(test, probes=(probe,)))
        with pytest.raises(UserError, match="asks the predictor, and the model's address leads to the transformer"):
            load_workload(settings, "local", "tiny-bloom", changed)


class TestATuning:
    def test_is_of_the_server_s_only_model_or_of_the_named_one(self, plans: dict[str, Plan]) -> None:
        plan = dataclasses.replace(plans["tiny-bloom"], tuning=())
        with pytest.raises(UserError, match="explicit model control"):
            choose_tuning("tiny-bloom", plan, None)
        one, other = Tuning(model="falcon7b"), Tuning(model="persimmon8b")
        assert choose_tuning("m", dataclasses.replace(plan, tuning=(one,)), None) == one
        several = dataclasses.replace(plan, tuning=(one, other))
        assert choose_tuning("m", several, "persimmon8b") == other
        with pytest.raises(UserError, match="--served-model: 'falcon7b', 'persimmon8b'"):
            choose_tuning("m", several, None)
        with pytest.raises(UserError, match="no model 'opt'"):
            choose_tuning("m", several, "opt")


class TestAJob:
    def test_asks_the_same_from_inside_the_cluster_and_leaves_its_results_in_its_log(
        self, settings: Settings, plans: dict[str, Plan], capsys: pytest.CaptureFixture[str]
    ) -> None:
        main(["sweep", "--stack", "local", "--model", "tiny-bloom", "--job", "--concurrency", "1,2"])
        job = yaml.safe_load(capsys.readouterr().out)
        assert job["metadata"]["namespace"] == settings.platform.namespace
        assert job["metadata"]["generateName"] == "tiny-bloom-sweep-"
        (container,) = job["spec"]["template"]["spec"]["containers"]
        assert container["image"].startswith("localhost/llm-serving/load:")
        command = container["command"]
        assert command[:5] == ["python", "-m", "engine_jobs.load", "sweep", "--workload-json"]
        assert command[6:] == ["--concurrency", "1,2", "--json", "--progress", "lines"]
        workload = from_json(Workload, command[5], "command")
        outside = load_workload(settings, "local", "tiny-bloom", plans["tiny-bloom"])
        assert workload.probe == outside.probe
        assert isinstance(workload.target, UrlTarget)
        assert workload.target.url == settings.platform.gateway.cluster_address

    def test_a_model_that_is_not_there_is_a_message(self) -> None:
        with pytest.raises(UserError, match=r"no model 'tiny-blom'; models: .*tiny-bloom"):
            main(["sweep", "--stack", "local", "--model", "tiny-blom"])

    def test_its_image_has_what_it_imports(self) -> None:
        from engine_jobs.image import source_files
        from engine_jobs.images import IMAGES

        files = source_files(IMAGES["load"])
        assert "engine_jobs/load/style.css" in files
        assert "engine_jobs/load/tune.py" in files
        assert Path("engine_jobs/load/job.py").as_posix() not in files
        assert "engine_jobs/recipe.py" not in files
