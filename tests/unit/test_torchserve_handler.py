"""TorchServe's handler: a batch answers as its requests alone, and a bad request fails alone. With a model of plain numbers."""

import contextlib
import threading
import zipfile
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from engine_jobs.torchserve_accelerate import accelerate_handler as handler
from engine_jobs.torchserve_accelerate.accelerate_handler import BadRequest, Generator, Prompt

END = 0
PAD = 99


class Tensor(list[list[int]]):
    def tolist(self) -> list[list[int]]:
        return list(self)


class Torch:
    """What the handler uses of torch."""

    inference_mode = contextlib.nullcontext

    @staticmethod
    def tensor(rows: list[list[int]], device: str) -> Tensor:
        return Tensor(rows)


class Tokenizer:
    """A token for each letter: its place in the alphabet."""

    pad_token_id = PAD

    def __call__(self, text: str) -> dict[str, list[int]]:
        return {"input_ids": [ord(letter) - ord("a") + 1 for letter in text if letter != " "]}

    def decode(self, ids: list[int], skip_special_tokens: bool) -> str:
        return "".join(chr(ord("a") + token - 1) for token in ids)


class Model:
    """Continues with the alphabet, from the last letter that is not masked; z is the end."""

    generation_config = SimpleNamespace(eos_token_id=END)

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []

    def get_input_embeddings(self) -> Any:
        return SimpleNamespace(weight=SimpleNamespace(device=SimpleNamespace(type="cpu")))

    def generate(self, **asked: Any) -> Tensor:
        self.asked.append(asked)
        rows = []
        for ids, mask in zip(asked["input_ids"], asked["attention_mask"], strict=True):
            assert [token != PAD for token in ids] == [bool(bit) for bit in mask]
            assert mask[-1], "a decoder goes on from the last token: padding belongs on the left"
            new = [*range(ids[-1] + 1, 27), END]
            rows.append([*ids, *(new + [PAD] * 99)[: asked["max_new_tokens"]]])
        return Tensor(rows)


@pytest.fixture
def generator() -> Generator:
    return Generator(Torch, Model(), Tokenizer(), max_length=8)


def texts(generator: Generator, *prompts: Prompt) -> list[str]:
    return [str(found) for found in generator.texts(prompts)]


class TestABatch:
    PROMPTS = (Prompt("a"), Prompt("abcd"), Prompt("x"), Prompt("hi", 2))

    def test_each_prompt_gets_what_it_gets_alone(self, generator: Generator) -> None:
        alone = [texts(generator, prompt)[0] for prompt in self.PROMPTS]
        assert texts(generator, *self.PROMPTS) == alone == ["abcdefgh", "abcdefgh", "xyz", "hijk"]

    def test_it_is_generated_at_once(self, generator: Generator) -> None:
        texts(generator, *self.PROMPTS)
        (asked,) = generator.model.asked
        assert asked["max_new_tokens"] == 7
        assert asked["do_sample"] is False

    def test_a_prompt_past_the_limit_is_refused_and_the_others_answered(self, generator: Generator) -> None:
        found = generator.texts([Prompt("abcdefgh"), Prompt("y"), Prompt(" ")])
        assert isinstance(found[0], BadRequest)
        assert "8 tokens" in str(found[0])
        assert found[1] == "yz"
        assert isinstance(found[2], BadRequest)

    def test_nothing_is_generated_where_nothing_is_good(self, generator: Generator) -> None:
        generator.texts([Prompt("abcdefghij")])
        assert generator.model.asked == []


class TestRequestsTogether:
    def test_a_bad_one_fails_alone(self, generator: Generator) -> None:
        rows: list[dict[str, Any]] = [
            {"body": {"instances": ["a", {"data": "y"}]}},
            {"body": b"{"},
            {"data": '{"instances":["abcdefgh"]}'},
        ]
        good, broken, long = handler.answer(generator, rows)
        assert good == ["abcdefgh", "yz"]
        assert isinstance(broken, BadRequest)
        assert str(long).startswith("instances[0]: the prompt has 8 tokens")

    def test_each_gets_its_status_and_answer(self, generator: Generator, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(handler, "_loaded", [generator])
        statuses: dict[int, int] = {}
        context = SimpleNamespace(
            set_response_content_type=lambda i, kind: None,
            set_response_status=lambda code, phrase, idx: statuses.update({idx: code}),
        )
        answers = handler.handle([{"body": {"instances": ["x"]}}, {"body": {"instances": [""]}}], context)
        assert answers == [{"predictions": ["xyz"]}, {"error": "instances[0]: the prompt is empty"}]
        assert statuses == {1: 400}


class TestABodyThatIsNoQuestion:
    @pytest.mark.parametrize(
        ("body", "words"),
        [
            (None, "Content-Type: application/json"),
            (b"", "Content-Type: application/json"),
            (b"\xff", "not UTF-8"),
            (b'{"instances":["a"', "not JSON"),
            ({"inputs": ["a"]}, 'no list "instances"'),
            (["a"], 'no list "instances"'),
            ({"instances": "a"}, 'no list "instances"'),
            ({"instances": []}, '"instances" is empty'),
            ({"instances": ["a", 1]}, r"instances\[1\]: a text is wanted"),
            ({"instances": [{"data": None}]}, "a text is wanted"),
            ({"instances": [""]}, "the prompt is empty"),
            ({"instances": ["\ud800"]}, "surrogate"),
            ({"instances": [{"data": "a", "temperature": 1}]}, "unknown key 'temperature'"),
            ({"instances": [{"data": "a", "max_new_tokens": 0}]}, "from 1 on, not 0"),
            ({"instances": [{"data": "a", "max_new_tokens": True}]}, "from 1 on, not True"),
        ],
    )
    def test_is_told_what_is_wanted(self, body: Any, words: str) -> None:
        with pytest.raises(BadRequest, match=words):
            handler.read_prompts({"body": body})

    def test_a_form_of_curl_is_told_to_be_json(self) -> None:
        with pytest.raises(BadRequest, match="Content-Type: application/json"):
            handler.read_prompts({})


class TestUnpacking:
    def make(self, folder: Path, *names: str) -> Path:
        with zipfile.ZipFile(folder / "model.zip", "w") as archive:
            for name in names:
                archive.writestr(name, name)
        return folder / "model.zip"

    def test_once_then_the_zip_is_gone(self, tmp_path: Path) -> None:
        archive = self.make(tmp_path, "config.json")
        handler.extract(archive, tmp_path / "snapshot")
        handler.extract(archive, tmp_path / "snapshot")
        assert (tmp_path / "snapshot/config.json").read_text() == "config.json"
        assert not archive.exists()

    def test_by_one_of_several_workers(self, tmp_path: Path) -> None:
        archive = self.make(tmp_path, "config.json")
        workers = [threading.Thread(target=handler.extract, args=(archive, tmp_path / "snapshot")) for _ in range(4)]
        for worker in workers:
            worker.start()
        for worker in workers:
            worker.join()
        assert [path.name for path in (tmp_path / "snapshot").iterdir()] == ["config.json"]

    def test_what_an_ended_worker_left_is_no_snapshot(self, tmp_path: Path) -> None:
        (tmp_path / ".snapshot.partial").mkdir()
        (tmp_path / ".snapshot.partial/half").touch()
        handler.extract(self.make(tmp_path, "config.json"), tmp_path / "snapshot")
        assert [path.name for path in (tmp_path / "snapshot").iterdir()] == ["config.json"]

    @pytest.mark.parametrize("name", ["../evil", "/etc/evil", "a/../../evil"])
    def test_never_outside(self, tmp_path: Path, name: str) -> None:
        with pytest.raises(ValueError, match="leads out of the archive"):
            handler.extract(self.make(tmp_path, "config.json", name), tmp_path / "snapshot")
        assert not (tmp_path / "snapshot").exists()

    def test_nested_as_the_tutorial_zips_it_is_refused(self, tmp_path: Path) -> None:
        with pytest.raises(ValueError, match=r"no config\.json at its root"):
            handler.extract(self.make(tmp_path, "model/snapshots/0/config.json"), tmp_path / "snapshot")


def test_memory_limits_go_by_number_and_only_to_gpus_that_are_there() -> None:
    config = {"max_memory": {"0": "10GB", "1": "10GB", "cpu": "20GB"}}
    assert handler.max_memory(config, gpus=1) == {0: "10GB", "cpu": "20GB"}
    assert handler.max_memory({}, gpus=1) is None
