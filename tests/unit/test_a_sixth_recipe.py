"""What another recipe costs: one folder of engine_jobs. It is added to a copy of the project, and nothing else is touched."""

import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]

RECIPE = """
from pathlib import Path
from typing import Literal

from pydantic import Field

from engine_jobs.build_chain import BuildChain
from engine_jobs.lifecycle import read_lifecycle
from engine_jobs.recipe import Build, Model, Plan, Platform, Port, RecipeSettings, Runtime, Service, artifact
from engine_jobs.smoke_test.spec import HttpProbe, InferenceServiceTarget, SmokeTest


class EchoSettings(RecipeSettings):
    name: Literal["echo"]
    loudness: int = Field(ge=0)


class Echo:
    settings = EchoSettings

    def plan(self, model: Model, settings: EchoSettings, platform: Platform) -> Plan:
        made = artifact("echo", model, {"loudness": settings.loudness, "builder": platform.image("echo-server")})
        chain = BuildChain(model=model, platform=platform, artifact=made, timeout_seconds=60)
        probe = HttpProbe(name="ask", method="POST", path="/say", body=model.question.prompt, answer="/said")
        return Plan(
            build=Build(artifact=made, jobs=(chain.fetch(), chain.publish(chain.checkpoint()))),
            runtime=Runtime(
                name="echo", image=platform.image("echo-server"), command=("echo",), ports=(Port(name="http1", number=80),),
                protocol_versions=("v1",), model_format="echo", model_format_version="1", metrics_port=80,
                metrics_path="/metrics", resources=model.predictor_resources, ready_path="/", start_timeout_seconds=10,
            ),
            service=Service(storage_uri=chain.storage_uri, resources=model.predictor_resources),
            smoke_test=lambda name: SmokeTest(
                name=model.name, subject=made.key, probes=(probe,),
                target=InferenceServiceTarget(name=name, namespace=platform.namespace),
            ),
            lifecycle=read_lifecycle(Path(__file__).parent),
            files={"loudness.txt": str(settings.loudness)},
        )


RECIPE = Echo()
"""

IMAGES = """
from engine_jobs.image import Image

IMAGES = (Image(name="echo-server", folder="engine_jobs/echo/images/echo-server"),)
"""

LIFECYCLE = """
runtime = "Echo"
status = "end-of-life"
since = "2020"
source = "https://example.com"
checked = 2026-11-21
advice = "say it yourself"
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A copy of the project with one folder more."""
    for name in ("engine_jobs", "components", "stacks"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(ROOT / "__main__.py", tmp_path)
    folder = tmp_path / "engine_jobs" / "echo"
    (folder / "images" / "echo-server").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "recipe.py").write_text(RECIPE)
    (folder / "lifecycle.toml").write_text(LIFECYCLE)
    (folder / "images" / "__init__.py").write_text(IMAGES)
    (folder / "images" / "echo-server" / "Containerfile").write_text("FROM scratch\n")
    return tmp_path


def stack_file(project: Path, **platform: object) -> Path:
    content = yaml.safe_load((ROOT / "stacks" / "examples" / "bloom-560m.yaml").read_text())
    content["config"]["llm-serving:platform"].update(platform)
    recipe = {"name": "echo", "loudness": 11}
    model = {"source": {"id": "acme/echo"}, "recipe": recipe, "smokeTest": {"prompt": "Hello"}}
    content["config"]["llm-serving:models"] = {"parrot": model}
    file = project / "echo.yaml"
    file.write_text(yaml.safe_dump(content))
    return file


def stacks(project: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "stacks", *arguments]
    return subprocess.run(command, cwd=project, capture_output=True, text=True, check=False)


class TestASixthRecipeIsOneFolder:
    def test_its_models_are_rendered_whole(self, project: Path) -> None:
        done = stacks(project, "render", "--file", str(stack_file(project)))
        assert done.returncode == 0, done.stderr
        documents = {document["kind"]: document for document in yaml.safe_load_all(done.stdout)}
        assert {"Job", "ServingRuntime", "InferenceService", "HTTPRoute"} <= documents.keys()
        assert documents["ArtifactFiles"]["files"] == {"loudness.txt": "11"}
        (container,) = documents["ServingRuntime"]["spec"]["containers"]
        assert container["image"].startswith("registry.example.com/llm-serving/echo-server:")

    def test_its_images_are_known(self, project: Path) -> None:
        done = stacks(project, "images", "--file", str(stack_file(project)))
        assert "echo-server" in done.stdout.split(), done.stderr

    def test_its_settings_are_checked(self, project: Path) -> None:
        file = stack_file(project)
        file.write_text(file.read_text().replace("loudness: 11", "loudness: -1"))
        done = stacks(project, "render", "--file", str(file))
        assert done.returncode == 1 and "models.parrot.recipe" in done.stderr and "loudness" in done.stderr
        assert "Traceback" not in done.stderr

    def test_a_stack_can_forbid_its_runtime(self, project: Path) -> None:
        file = stack_file(project, lifecycle={"forbid": ["end-of-life"]})
        done = stacks(project, "render", "--file", str(file))
        assert done.returncode == 1
        assert "models.parrot: platform.lifecycle forbids it: Echo is end-of-life upstream since 2020" in done.stderr
        assert "say it yourself" in done.stderr
