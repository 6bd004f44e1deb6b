import os
from pathlib import Path

import pytest
import yaml

from stacks.__main__ import main
from stacks.render import render, to_yaml
from stacks.settings import STACKS_DIR

GOLDEN = Path(__file__).parent / "stacks"
STACK_FILES = sorted([*STACKS_DIR.glob("Pulumi.*.yaml"), *STACKS_DIR.glob("examples/*.yaml")])


@pytest.fixture(autouse=True)
def same_images_whatever_the_sources(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "stacks.planning.content_tag", lambda name, arguments: "-".join([f"content-of-{name}", *arguments.values()])
    )


class TestWhatAStackRendersIsReviewed:
    @pytest.mark.parametrize("file", STACK_FILES, ids=lambda path: path.stem)
    def test_is_the_golden_file(self, file: Path) -> None:
        text = to_yaml(render(file.stem.removeprefix("Pulumi."), file))
        golden = GOLDEN / f"{file.stem}.yaml"
        if os.environ.get("UPDATE_GOLDEN"):
            golden.write_text(text)
        assert text == golden.read_text(), f"{golden} differs; if that is meant: make golden, and read the diff"

    def test_every_golden_file_has_its_stack(self) -> None:
        assert {path.stem for path in GOLDEN.glob("*.yaml")} == {file.stem for file in STACK_FILES}


class TestARenderedStackIsSafeToShow:
    @pytest.mark.parametrize("file", STACK_FILES, ids=lambda path: path.stem)
    def test_no_secret_but_placeholders(self, file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIASECRET")
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "very-secret")
        monkeypatch.setenv("HF_TOKEN", "hf_secret")
        text = to_yaml(render("x", file))
        assert not any(value in text for value in ("AKIASECRET", "very-secret", "hf_secret"))
        for body in yaml.safe_load_all(text):
            if body["kind"] == "Secret":
                assert set(body["stringData"].values()) == {"<secret>"}


class TestTheCommandLine:
    def test_renders_a_file(self, capsys: pytest.CaptureFixture[str]) -> None:
        main(["render", "--file", str(STACKS_DIR / "examples" / "bloom-560m.yaml")])
        kinds = [body["kind"] for body in yaml.safe_load_all(capsys.readouterr().out)]
        assert kinds.count("Job") == 4 and kinds.count("ArtifactFiles") == 1  # fetch, convert, publish, smoke test
        assert {"InferenceService", "ServingRuntime", "HTTPRoute", "PersistentVolumeClaim"} <= set(kinds)
