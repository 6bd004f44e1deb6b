"""The model repository: Triton's own message reads it back, and it is complete or absent."""

import dataclasses
from pathlib import Path

import pytest
from google.protobuf import text_format
from tritonclient.grpc import model_config_pb2

from engine_jobs.errors import UserError
from engine_jobs.triton_python import repository
from engine_jobs.triton_python.model_config import DynamicBatching, ServedModel, config_texts, models_text

MODEL = ServedModel(
    name="falcon7b",
    output_tensor="text",
    instances=4,
    max_batch_size=8,
    dynamic_batching=DynamicBatching(max_queue_delay_microseconds=100, preferred_batch_sizes=(4, 8)),
    gpu=True,
    parameters={"dtype": "float16", "max_output_length": "15"},
)
PLAIN = dataclasses.replace(MODEL, name="persimmon8b", max_batch_size=0, dynamic_batching=None, gpu=False)


def read(text: str) -> model_config_pb2.ModelConfig:
    return text_format.Parse(text, model_config_pb2.ModelConfig())


def test_the_front_has_the_tutorials_settings_and_the_engine_the_weights() -> None:
    texts = config_texts(MODEL)
    front, engine = read(texts["falcon7b"]), read(texts["falcon7b_stream"])
    assert (front.max_batch_size, front.instance_group[0].count) == (8, 4)
    assert list(front.dynamic_batching.preferred_batch_size) == [4, 8]
    assert front.dynamic_batching.max_queue_delay_microseconds == 100
    assert front.parameters["engine"].string_value == "falcon7b_stream"
    assert not front.model_transaction_policy.decoupled
    assert engine.model_transaction_policy.decoupled
    assert (engine.max_batch_size, engine.HasField("dynamic_batching"), len(engine.instance_group)) == (0, False, 1)
    assert engine.instance_group[0].kind == model_config_pb2.ModelInstanceGroup.KIND_GPU
    assert engine.parameters["max_output_length"].string_value == "15"
    assert (
        read(config_texts(PLAIN)["persimmon8b_stream"]).instance_group[0].kind
        == model_config_pb2.ModelInstanceGroup.KIND_CPU
    )
    for config in (front, engine):
        assert (config.input[0].name, config.input[0].optional) == ("text_input", False)
        assert all(tensor.optional for tensor in list(config.input)[1:])
        assert [tensor.name for tensor in config.output] == ["text"]


def test_what_the_recipe_writes_on_the_command_line_is_read_back() -> None:
    assert repository.read_models(models_text([MODEL, PLAIN])) == [MODEL, PLAIN]
    with pytest.raises(UserError, match="--models"):
        repository.read_models('[{"name": "a"}]')


def checkpoint(folder: Path) -> Path:
    folder.mkdir()
    for name in ("config.json", "tokenizer.json", "model.safetensors"):
        (folder / name).write_text(name)
    return folder


def arguments(tmp_path: Path, *models: ServedModel) -> list[str]:
    given = ["--models", models_text(models or (MODEL, PLAIN)), "--output-dir", str(tmp_path / "repository")]
    for name in ("falcon7b", "persimmon8b"):
        given += ["--checkpoint", f"{name}={tmp_path / name}"]
    return given


def test_the_repository_links_the_weights_and_holds_all_that_model_py_imports(tmp_path: Path) -> None:
    for name in ("falcon7b", "persimmon8b"):
        checkpoint(tmp_path / name)
    repository.main(arguments(tmp_path))
    made = tmp_path / "repository"
    assert sorted(path.name for path in made.iterdir()) == [
        "falcon7b",
        "falcon7b_stream",
        "persimmon8b",
        "persimmon8b_stream",
    ]
    weights = made / "falcon7b_stream" / "1" / "checkpoint" / "model.safetensors"
    assert weights.samefile(tmp_path / "falcon7b" / "model.safetensors")
    assert not (made / "falcon7b" / "1" / "checkpoint").exists()
    for name in ("falcon7b", "falcon7b_stream"):
        version = made / name / "1"
        for line in [*version.rglob("*.py")]:
            for words in (
                text.split() for text in line.read_text().splitlines() if text.startswith("from engine_jobs")
            ):
                path = version.joinpath(*words[1].split("."))
                assert path.with_suffix(".py").is_file() or path.is_dir(), (
                    f"{line} imports {words[1]}, which does not travel"
                )
    # Again: nothing to do; of other settings: an error; of a checkpoint that changed: too.
    repository.main(arguments(tmp_path))
    with pytest.raises(UserError, match="made from other files or settings"):
        repository.main(arguments(tmp_path, dataclasses.replace(MODEL, instances=2), PLAIN))


def test_a_checkpoint_without_a_tokenizer_leaves_nothing_behind(tmp_path: Path) -> None:
    for name in ("falcon7b", "persimmon8b"):
        checkpoint(tmp_path / name)
    (tmp_path / "persimmon8b" / "tokenizer.json").unlink()
    with pytest.raises(UserError, match="persimmon8b has no tokenizer"):
        repository.main(arguments(tmp_path))
    assert not (tmp_path / "repository").exists()
    with pytest.raises(UserError, match="don't name the same models: persimmon8b"):
        repository.main(arguments(tmp_path, MODEL))
