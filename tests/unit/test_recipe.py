import pytest

from engine_jobs.recipe import content_key
from engine_jobs.recipes import recipes
from tests.unit.plans import make_plan


class TestTheContentAddressIsOfWhatMakesTheArtifact:
    @pytest.mark.parametrize(
        "change",
        [
            {"revision": "b" * 40},
            {"image": "v2"},
            {"tensor_parallel_size": 2},
            {"gpu_type": "nvidia-l4"},
        ],
    )
    def test_changes_with(self, change: dict[str, str]) -> None:
        assert make_plan(**change).build.artifact.key != make_plan().build.artifact.key  # type: ignore[arg-type]

    @pytest.mark.parametrize("change", [{"name": "another"}, {"prompt": "Bye"}, {"memory": "2Gi"}])
    def test_does_not_change_with(self, change: dict[str, str]) -> None:
        assert make_plan(**change).build.artifact == make_plan().build.artifact  # type: ignore[arg-type]

    def test_is_the_hash_of_its_recorded_inputs(self) -> None:
        artifact = make_plan().build.artifact
        assert content_key(dict(artifact.inputs)) == artifact.key
        assert artifact.path == f"fastertransformer/llm-serving--tiny-bloom/{artifact.key[:16]}"


class TestTheBuildIsAChainThatAsksTheStoreFirst:
    def test_in_order(self) -> None:
        jobs = make_plan().build.jobs
        assert [(job.name, [step.name for step in job.steps]) for job in jobs] == [
            ("fetch", ["fetch"]),
            ("convert", ["convert", "repository"]),
            ("publish", ["publish"]),
        ]

    def test_every_step_is_skipped_for_a_complete_artifact(self) -> None:
        plan = make_plan()
        for job in plan.build.jobs:
            for step in job.steps:
                assert step.command[:6] == (
                    *("python", "-m", "engine_jobs.unless_complete"),
                    *("--artifact", f"s3://bucket/engines/{plan.build.artifact.path}", "--"),
                )

    def test_only_the_fetch_sees_the_hub_token(self) -> None:
        assert [job.name for job in make_plan().build.jobs if job.needs_hub_token] == ["fetch"]


class TestRecipesAreFoundByTheirFolders:
    def test_each_by_the_name_that_its_settings_pin(self) -> None:
        assert "fastertransformer" in recipes()
        for name, recipe in recipes().items():
            assert recipe.settings.model_fields["name"].annotation.__args__ == (name,)  # type: ignore[union-attr]
