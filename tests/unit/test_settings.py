import copy
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from engine_jobs.errors import UserError
from stacks.schema import stack_schema
from stacks.settings import parse_settings, read_stack_file, stack_file


@pytest.fixture
def config() -> dict[str, Any]:
    return copy.deepcopy(read_stack_file(stack_file("local")))


def mistake(config: dict[str, Any]) -> str:
    with pytest.raises(UserError) as error:
        parse_settings(config, "stacks/Pulumi.x.yaml")
    return str(error.value)


class TestEveryMistakeIsNamedWithFileKeyAndFix:
    def test_unknown_key_lists_the_known_ones(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["recepie"] = 1
        message = mistake(config)
        assert "stacks/Pulumi.x.yaml" in message
        assert "llm-serving:models.tiny-bloom.recepie: unknown key; known here: " in message
        assert "recipe, resources, smokeTest, smokeTests, source, sources, store" in message

    def test_unknown_key_of_a_recipe(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["recipe"]["tensorParalelSize"] = 2
        assert "tensorParalelSize: unknown key" in mistake(config)
        assert "tensorParallelSize" in mistake(config)

    def test_wrong_type(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["smokeTest"]["maxTokens"] = "many"
        assert "llm-serving:models.tiny-bloom.smokeTest.maxTokens: Input should be a valid integer" in mistake(config)

    def test_missing_key(self, config: dict[str, Any]) -> None:
        del config["platform"]["stores"]["s3"]["url"]
        assert "llm-serving:platform.stores.s3.url: missing; add it" in mistake(config)

    def test_unknown_recipe(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["recipe"]["name"] = "vllm"
        message = mistake(config)
        assert "llm-serving:models.tiny-bloom.recipe" in message
        assert "fastertransformer" in message

    def test_all_mistakes_at_once(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["smokeTest"]["maxTokens"] = 0
        config["platform"]["namespace"] = "Not_A_Label"
        message = mistake(config)
        assert "maxTokens" in message and "llm-serving:platform.namespace" in message

    def test_no_models(self, config: dict[str, Any]) -> None:
        config["models"] = {}
        assert "llm-serving:models: name at least one model" in mistake(config)

    def test_a_model_with_neither_source_nor_sources(self, config: dict[str, Any]) -> None:
        del config["models"]["tiny-bloom"]["source"]
        assert "llm-serving:models.tiny-bloom: give either source or sources" in mistake(config)

    def test_a_model_that_nothing_is_asked_of(self, config: dict[str, Any]) -> None:
        del config["models"]["tiny-bloom"]["smokeTest"]
        assert "llm-serving:models.tiny-bloom: give either smokeTest or smokeTests" in mistake(config)

    def test_a_question_to_a_model_that_is_not_served(self, config: dict[str, Any]) -> None:
        model = config["models"]["tiny-bloom"]
        model["sources"] = {"first": model.pop("source"), "second": {"id": "a/b"}}
        model["smokeTest"]["model"] = "third"
        message = mistake(config)
        assert "llm-serving:models.tiny-bloom: smoke test" in message and "model: name one of first, second" in message

    def test_a_store_that_is_not_there(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["store"] = "azure"
        assert "models.tiny-bloom.store: there is no store 'azure'; known: s3, gcs" in mistake(config)

    def test_no_store_named_among_several(self, config: dict[str, Any]) -> None:
        del config["models"]["tiny-bloom"]["store"]
        assert "models.tiny-bloom.store: name one of s3, gcs" in mistake(config)

    def test_a_gpu_that_is_not_in_the_catalog(self, config: dict[str, Any]) -> None:
        config["models"]["tiny-bloom"]["gpu"] = "nvidia-l5"
        assert "models.tiny-bloom.gpu: 'nvidia-l5' is not in gpus.toml; known: nvidia-a100-80gb" in mistake(config)

    def test_two_kinds_of_work_volume(self, config: dict[str, Any]) -> None:
        config["platform"]["workVolume"]["storageClass"] = "standard"
        assert "hostPath and storageClass exclude each other" in mistake(config)

    def test_a_stack_that_is_not_there_names_those_that_are(self) -> None:
        with pytest.raises(UserError, match=r"Pulumi\.nope\.yaml: there is no such stack file; stacks here: .*local"):
            stack_file("nope")

    @pytest.mark.parametrize(
        ("text", "message"),
        [
            ("config: [", "not valid YAML"),
            ("a: 1", "config: missing"),
            ("", "config: missing"),
        ],
    )
    def test_a_file_that_is_no_stack_file(self, tmp_path: Path, text: str, message: str) -> None:
        file = tmp_path / "Pulumi.x.yaml"
        file.write_text(text)
        with pytest.raises(UserError, match=message):
            read_stack_file(file)


class TestTheSchemaAgreesWithTheModel:
    def test_every_stack_file_satisfies_it(self) -> None:
        jsonschema.Draft202012Validator.check_schema(stack_schema())
        folder = stack_file("local").parent
        for file in (*folder.glob("Pulumi.*.yaml"), *folder.glob("examples/*.yaml")):
            jsonschema.validate(yaml.safe_load(file.read_text()), stack_schema())

    def test_an_unknown_key_does_not(self) -> None:
        content = yaml.safe_load(stack_file("local").read_text())
        content["config"]["llm-serving:models"]["tiny-bloom"]["recepie"] = 1
        with pytest.raises(jsonschema.ValidationError, match="recepie"):
            jsonschema.validate(content, stack_schema())

    def test_the_committed_file_is_up_to_date(self) -> None:
        from stacks.__main__ import main

        main(["schema", "--check"])
