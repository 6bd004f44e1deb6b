"""From settings to plans: what is warned of, what is refused, and which images a stack runs."""

import copy
from pathlib import Path
from typing import Any

import pytest
import yaml

from engine_jobs.errors import UserError
from engine_jobs.images import IMAGES
from stacks.planning import NO_HUB, Hub, image_names, plan_models
from stacks.selection import select
from stacks.settings import STACKS_DIR, Settings, parse_settings, read_stack_file, stack_file

EXAMPLE = STACKS_DIR / "examples" / "bloom-560m.yaml"


def settings(**platform: Any) -> Settings:
    config = copy.deepcopy(read_stack_file(EXAMPLE))
    config["platform"].update(platform)
    return parse_settings(config, EXAMPLE)


class TestARuntimeThatItsMakersNoLongerKeep:
    def test_is_warned_of_with_source_date_and_advice(self) -> None:
        (warning,) = plan_models(settings(), NO_HUB)["bloom-560m"].warnings
        assert "FasterTransformer is frozen upstream since" in warning
        assert "https://github.com/NVIDIA/FasterTransformer" in warning and "read 2026-" in warning
        assert "pin its image by digest" in warning

    def test_is_refused_where_the_stack_forbids_it(self) -> None:
        with pytest.raises(UserError, match=r"models\.bloom-560m: platform\.lifecycle forbids it: FasterTransformer"):
            plan_models(settings(lifecycle={"forbid": ["frozen"]}), NO_HUB)

    def test_another_status_being_forbidden_changes_nothing(self) -> None:
        assert plan_models(settings(lifecycle={"forbid": ["end-of-life"]}), NO_HUB)


class TestABranchIsResolvedOnce:
    def test_to_the_commit_that_names_the_artifact_and_is_read(self) -> None:
        read: list[tuple[str, str]] = []

        def config(model: str, revision: str) -> dict[str, Any]:
            read.append((model, revision))
            return {}

        hub = Hub(commit=lambda model, revision: "c" * 40, config=config)
        plan = plan_models(settings(), hub)["bloom-560m"]
        assert plan.build.artifact.inputs["sources"] == f"bigscience/bloom-560m@{'c' * 40}"
        assert read == [("bigscience/bloom-560m", "c" * 40)]


class TestTheImagesOfAStack:
    def test_are_those_that_its_pods_run(self) -> None:
        names = image_names(parse_settings(read_stack_file(EXAMPLE), EXAMPLE))
        assert set(names) == {"jobs", "smoke-test", "fastertransformer-converter", "transformer", "triton-ft"}

    def test_without_what_is_pinned_elsewhere(self) -> None:
        pinned = {"registry": "r", "pinned": {"triton-ft": "r/triton-ft@sha256:00"}}
        assert "triton-ft" not in image_names(settings(images=pinned))

    def test_the_local_stack_s_can_all_be_built_on_this_machine(self) -> None:
        file = stack_file("local")
        for name in image_names(parse_settings(read_stack_file(file), file)):
            assert IMAGES[name].local, name


class TestAProfileIsAPartOfAStackFile:
    FILE = stack_file("local")

    @pytest.mark.parametrize("wanted", ["tiny-bloom", "fastertransformer"])
    def test_by_model_or_recipe(self, wanted: str) -> None:
        content = yaml.safe_load(select(self.FILE, [wanted]))
        whole = yaml.safe_load(self.FILE.read_text())
        assert list(content["config"]["llm-serving:models"]) == ["tiny-bloom"]
        assert content["config"]["llm-serving:platform"] == whole["config"]["llm-serving:platform"]
        assert content["encryptionsalt"] == whole["encryptionsalt"]

    def test_all_is_the_whole(self) -> None:
        assert yaml.safe_load(select(self.FILE, ["all"])) == yaml.safe_load(self.FILE.read_text())

    def test_a_name_that_is_neither_is_refused_with_those_that_are(self) -> None:
        with pytest.raises(UserError, match=r"no model or recipe is called vllm; known: all, .*fastertransformer"):
            select(Path(self.FILE), ["vllm", "tiny-bloom"])
