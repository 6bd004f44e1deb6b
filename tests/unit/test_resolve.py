"""A revision is a commit before anything is built, and each way to get it wrong has its own words."""

import json
from collections.abc import Iterator
from http import HTTPStatus
from pathlib import Path

import pytest

from engine_jobs.errors import UserError
from engine_jobs.resolve import TransientHubError, read_config, resolve_revision
from localcluster.hub.catalog import Catalog
from localcluster.hub.server import HubHandler
from tests.unit.hub_endpoint import GATED, MODEL, OTHER_TOKEN, TOKEN, hub, write_model


@pytest.fixture(autouse=True)
def no_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("HF_TOKEN", raising=False)
    monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "no-token"))


@pytest.fixture
def models(tmp_path: Path) -> Path:
    write_model(tmp_path / "models" / "tiny")
    return tmp_path / "models"


@pytest.fixture
def endpoint(models: Path) -> Iterator[str]:
    with hub(models) as address:
        yield address


class TestTheCommit:
    def test_is_what_main_stands_for(self, endpoint: str, models: Path) -> None:
        model = Catalog(models).find(MODEL)
        assert model is not None
        assert resolve_revision(MODEL, "main", endpoint) == model.sha

    def test_resolves_to_itself(self, endpoint: str) -> None:
        sha = resolve_revision(MODEL, endpoint=endpoint)
        assert resolve_revision(MODEL, sha, endpoint) == sha

    def test_of_a_gated_model_takes_the_token(self, endpoint: str, monkeypatch: pytest.MonkeyPatch) -> None:
        assert resolve_revision(GATED, endpoint=endpoint, token=TOKEN) == resolve_revision(MODEL, endpoint=endpoint)
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        assert resolve_revision(GATED, endpoint=endpoint) == resolve_revision(MODEL, endpoint=endpoint)

    def test_takes_the_token_from_a_file(self, endpoint: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text(f"{TOKEN}\n")
        monkeypatch.setattr("huggingface_hub.constants.HF_TOKEN_PATH", str(tmp_path / "secret"))
        assert len(resolve_revision(GATED, endpoint=endpoint)) == 40


class TestTheConfiguration:
    def test_is_the_content_of_config_json_at_the_commit(self, endpoint: str, models: Path) -> None:
        sha = resolve_revision(MODEL, endpoint=endpoint)
        assert read_config(MODEL, sha, endpoint) == json.loads((models / "tiny" / "config.json").read_text())

    @pytest.mark.parametrize(("text", "message"), [("{", "is not JSON"), ("[]", "is not a JSON object")])
    def test_of_another_form_is_refused(self, endpoint: str, models: Path, text: str, message: str) -> None:
        (models / "tiny" / "config.json").write_text(text)
        with pytest.raises(UserError, match=f"{MODEL} at main: its config.json {message}"):
            read_config(MODEL, "main", endpoint)

    def test_of_a_gated_model_takes_the_token(self, endpoint: str) -> None:
        with pytest.raises(UserError, match="is gated, and there is no token"):
            read_config(GATED, "main", endpoint)
        assert read_config(GATED, "main", endpoint, TOKEN)


class TestWhatIsWrongIsNamed:
    @pytest.mark.parametrize(
        ("model", "revision", "token", "message"),
        [
            ("llm-serving/absent", "main", None, "llm-serving/absent at http.*no such model.*may also be private"),
            ("llm-serving/absent", "main", TOKEN, "no such model, or the token can't see it"),
            ("absent", "main", TOKEN, "no such model"),
            (MODEL, "v9", None, "has no revision 'v9'"),
            (MODEL, "0" * 40, None, "has no revision '0000"),
            (GATED, "main", None, "is gated, and there is no token.*HF_TOKEN"),
            (GATED, "main", OTHER_TOKEN, "is gated, and the account of the token has no access"),
            (GATED, "main", "nonsense", "does not accept the token"),
            ("a/b/c", "main", None, "'a/b/c' is not a model id"),
        ],
    )
    def test_by_the_hub(self, endpoint: str, model: str, revision: str, token: str | None, message: str) -> None:
        with pytest.raises(UserError, match=message) as caught:
            resolve_revision(model, revision, endpoint, token)
        assert not isinstance(caught.value, TransientHubError)
        assert "\n" not in str(caught.value)
        assert token is None or token not in str(caught.value)

    def test_when_nobody_listens(self) -> None:
        with pytest.raises(TransientHubError, match=r"the Hub at http://127\.0\.0\.1:1 can't be reached"):
            resolve_revision(MODEL, endpoint="http://127.0.0.1:1")

    def test_when_the_hub_is_down(self, models: Path) -> None:
        class DownHandler(HubHandler):
            def do_GET(self) -> None:
                self.send_error(503)

        with hub(models, DownHandler) as address, pytest.raises(TransientHubError, match="answered 503"):
            resolve_revision(MODEL, endpoint=address)

    def test_when_it_is_no_hub(self, models: Path) -> None:
        class PageHandler(HubHandler):
            def do_GET(self) -> None:
                self.send_answer(HTTPStatus.OK, {"Content-Type": "text/html"}, 4)
                self.wfile.write(b"<p/>")

        with hub(models, PageHandler) as address, pytest.raises(UserError, match="did not answer like a Hugging Face"):
            resolve_revision(MODEL, endpoint=address)
