"""The recipe `torchserve-accelerate`: the tutorial's keys under their own names, and what of them can't be meant is said."""

import json
from dataclasses import replace
from typing import Any

import pytest
from pydantic import ValidationError

from engine_jobs.errors import UserError
from engine_jobs.recipe import Model, Plan, Platform, Question, Resources, Source
from engine_jobs.smoke_test.spec import HttpProbe
from engine_jobs.torchserve_accelerate import archive
from engine_jobs.torchserve_accelerate.configuration import config_properties
from engine_jobs.torchserve_accelerate.recipe import RECIPE, image_tag
from engine_jobs.torchserve_accelerate.settings import TorchServeAccelerateSettings
from stacks.gpus import gpu

TUTORIAL = {
    "revision": "main",
    "max_memory": {"0": "10GB", "cpu": "10GB"},
    "low_cpu_mem_usage": True,
    "device_map": "auto",
    "offload_folder": "offload",
    "offload_state_dict": True,
    "torch_dtype": "float16",
    "max_length": "80",
}
MODEL = Model(
    name="bloom-7b1",
    sources={"bloom-7b1": Source(model="bigscience/bloom-7b1", revision="5" * 40)},
    questions=(Question(prompt="My dog is cute.", max_tokens=40, expect=None),),
    job_resources=Resources(cpu="1", memory="4Gi"),
    predictor_resources=Resources(cpu="2", memory="32Gi", gpus=2),
    transformer_resources=Resources(cpu="1", memory="1Gi"),
    store="gs://bucket/models",
    gpu=gpu("nvidia-tesla-t4", "gpu"),
)
PLATFORM = Platform(image=lambda name, _=None: f"registry.test/{name}:v1", namespace="models", hub_endpoint=None)


def settings(setup_config: dict[str, Any] | None = None, **more: Any) -> TorchServeAccelerateSettings:
    content = {"name": "torchserve-accelerate", "setupConfig": setup_config or TUTORIAL, **more}
    return TorchServeAccelerateSettings.model_validate(content)


def plan(setup_config: dict[str, Any] | None = None, *, gpus: int = 2, memory: str = "32Gi", **more: Any) -> Plan:
    model = replace(MODEL, predictor_resources=Resources(cpu="2", memory=memory, gpus=gpus))
    return RECIPE.plan(model, settings(setup_config, **more), PLATFORM)


class TestTheBuild:
    def test_the_archive_s_program_takes_its_command_line_and_writes_what_was_shown(self) -> None:
        made = plan(modelName="bloom", batchSize=4, vmargs="-Xmx1g -Xms1g", installPyDepPerModel=False)
        fetch, job, publish = made.build.jobs
        assert (fetch.name, job.name, publish.name) == ("fetch", "archive", "publish")
        command = job.steps[0].command
        taken: list[archive.Archive] = []
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(archive, "write", taken.append)
            archive.main(command[command.index("engine_jobs.torchserve_accelerate.archive") + 1 :])
        (found,) = taken
        shown = {name: text for name, text in made.files.items() if name.startswith("model-store/bloom.mar/")}
        assert {f"model-store/bloom.mar/{name}": text for name, text in found.texts.items()} == shown
        assert config_properties(found.server) == made.files["config/config.properties"]
        assert found.server.vmargs == "-Xmx1g -Xms1g"

    def test_every_key_of_the_tutorial_is_in_the_file(self) -> None:
        found = json.loads(plan().files["model-store/bloom-7b1.mar/setup_config.json"])
        assert found == {**TUTORIAL, "max_length": 80}

    def test_an_artifact_is_named_by_what_is_in_it(self) -> None:
        first = plan().build.artifact.key
        assert plan(runtimeVersion="0.12.0", buildTimeoutSeconds=60).build.artifact.key == first
        assert plan(modelName="bloom-7b1").build.artifact.key == first
        assert plan({**TUTORIAL, "max_length": 81}).build.artifact.key != first
        assert plan(responseTimeout=60).build.artifact.key != first


class TestWhatServes:
    def test_the_cpu_image_where_no_gpu_is_asked_for(self) -> None:
        assert plan().runtime.image == "registry.test/torchserve:v1"
        assert plan(gpus=0).runtime.image == "registry.test/torchserve-cpu:v1"

    def test_ready_is_not_what_torchserve_says(self) -> None:
        runtime = plan().runtime
        assert runtime.ready_port not in (None, *(port.number for port in runtime.ports))
        assert f"--ready-port={runtime.ready_port}" in runtime.command

    def test_runtime_version_is_the_image_s_tag_or_nothing(self) -> None:
        assert plan().service.runtime_version == "v1"
        assert image_tag("registry.test:5000/torchserve:v1@sha256:0") is None
        assert image_tag("registry.test:5000/torchserve") is None

    def test_the_question_goes_to_the_model_s_v1_path(self) -> None:
        probe = plan(modelName="bloom").smoke_test("bloom-0123").probes[-1]
        assert isinstance(probe, HttpProbe)
        assert probe.path == "/v1/models/bloom:predict"
        assert probe.body == {"instances": [{"data": "My dog is cute.", "max_new_tokens": 40}]}


class TestWhatIsSaidAtPreview:
    def test_the_tutorial_leaves_a_gpu_empty(self) -> None:
        (warning,) = plan().warnings
        assert "names GPU 0, and resources.predictor.gpus is 2: GPU 1 stays empty" in warning
        assert 'add "1": 10GB, or ask for 1' in warning

    @pytest.mark.parametrize(
        "setup_config",
        [{**TUTORIAL, "max_memory": {"0": "10GB", "1": "10GB", "cpu": "10GB"}}, {**TUTORIAL, "max_memory": None}],
    )
    def test_nothing_where_nothing_is_wrong(self, setup_config: dict[str, Any]) -> None:
        assert plan(setup_config).warnings == ()

    def test_more_memory_than_the_pod_has(self) -> None:
        (warning,) = plan({**TUTORIAL, "max_memory": {"cpu": "10GB"}}, memory="8Gi").warnings
        assert "10GB" in warning
        assert "8Gi" in warning

    def test_limits_for_gpus_that_are_not_asked_for(self) -> None:
        (warning,) = plan(gpus=0).warnings
        assert "names GPU 0, and resources.predictor.gpus is 0" in warning

    def test_a_copy_for_each_worker(self) -> None:
        (warning,) = plan({"max_length": 80}, workers=3).warnings
        assert "workers is 3" in warning

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"max_memory": {"2": "10GB"}}, "names GPU 2, and resources.predictor.gpus is 2"),
            (
                {"device_map": {"transformer.h": "cuda:3", "lm_head": 0}},
                "names GPU 3, and resources.predictor.gpus is 2",
            ),
            ({"max_memory": {"0": "17GB", "1": "1GB"}}, "gives GPU 0 17GB, and nvidia-tesla-t4 has 16 GB"),
        ],
    )
    def test_a_gpu_that_is_not_there_is_refused(self, changed: dict[str, Any], words: str) -> None:
        with pytest.raises(UserError, match=words):
            plan({**TUTORIAL, **changed})


class TestAWrongValueIsRefused:
    @pytest.mark.parametrize(
        ("setup_config", "words"),
        [
            ({"maxLength": 80}, "maxLength"),
            ({"max_length": "eighty"}, "max_length"),
            ({"torch_dtype": "int8"}, "torch_dtype"),
            ({"device_map": "everywhere"}, "device_map"),
            ({"max_memory": {"gpu0": "10GB"}}, "max_memory"),
            ({"max_memory": {"0": "10"}}, "max_memory"),
            ({"offload_folder": "../elsewhere"}, "offload_folder"),
            ({"low_cpu_mem_usage": False}, "device_map needs low_cpu_mem_usage"),
        ],
    )
    def test_of_the_setup_config(self, setup_config: dict[str, Any], words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            settings(setup_config)

    @pytest.mark.parametrize(
        ("changed", "words"),
        [
            ({"runtimeVersion": "0.8.0"}, r"0\.8\.0: the images have TorchServe 0\.12\.0"),
            ({"requirements": ["transformers==4.57.6"]}, "accelerate missing"),
            ({"requirements": ["transformers", "accelerate==1.0"]}, "requirements"),
            ({"vmargs": "-Xmx1g\nmodel_store=/"}, "vmargs"),
            ({"modelName": "a/b"}, "modelName"),
            ({"responseTimeout": 0}, "responseTimeout"),
        ],
    )
    def test_of_the_server(self, changed: dict[str, Any], words: str) -> None:
        with pytest.raises(ValidationError, match=words):
            settings(**changed)
