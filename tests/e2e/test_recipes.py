"""Every recipe on the local cluster, as a caller of its model meets it: exact answers, refusals with a reason, and service after them."""

import json
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import httpx
import pytest

from tests.e2e.stack_runs import TestStack

JORDAN = "Many consider Michael Jordan the greatest basketball player of all time due to his six NBA championships."
PLAYER = "Who is considered the greatest basketball player of all time?"
ML = (
    "\nML is a branch of AI that allows computers to learn from data, identify patterns, and make predictions. It is a powerful "
    "tool that can be used in a variety of industries, including healthcare, finance, and transportation."
)
KUBERNETES = "Kubernetes is the best platform to serve your models because"
BLOOM = f"{KUBERNETES} it is a cloud-based service that is built on top of the Kubernetes API."


def generate(prompt: str, tokens: int) -> dict[str, Any]:
    """The tutorials' request to TensorRT-LLM's models."""
    ends = {"bad_words": "", "stop_words": "", "pad_id": 2, "end_id": 2}
    return {"text_input": prompt, "max_tokens": tokens, **ends}


def infer(prompt: str) -> dict[str, Any]:
    """The tutorial's request to Triton's Python backend."""
    return {"inputs": [{"name": "text_input", "datatype": "BYTES", "shape": [1], "data": [prompt]}]}


@dataclass(frozen=True, kw_only=True)
class Case:
    """A request to a model of the `local` stack, where its answer has the text, and the text."""

    model: str
    path: str
    body: Mapping[str, Any]
    answer: tuple[str | int, ...]
    text: str

    def __str__(self) -> str:
        return f"{self.model}{self.path}"


CASES = [
    Case(
        model="tiny-llama",
        path="/v2/models/ensemble/generate",
        body=generate(PLAYER, 30),
        answer=("text_output",),
        text=JORDAN,
    ),
    Case(
        model="tiny-llama",
        path="/v2/models/tensorrt_llm_bls/generate",
        body=generate("What is ML?", 50),
        answer=("text_output",),
        text=ML,
    ),
    Case(
        model="llama-manual",
        path="/v2/models/ensemble/generate",
        body=generate("What is ML?", 50),
        answer=("text_output",),
        text=f"What is ML?{ML}",
    ),
    Case(
        model="llama-import",
        path="/v2/models/llama-import/generate",
        body=generate("What is ML?", 50),
        answer=("text_output",),
        text=ML,
    ),
    Case(
        model="two-models",
        path="/v2/models/tiny-opt/infer",
        body=infer("I am going"),
        answer=("outputs", 0, "data", 0),
        text="I am going to be in the market for a new laptop soon. I",
    ),
    Case(
        model="two-models",
        path="/v2/models/tiny-llama/generate",
        body={"text_input": "How can you be"},
        answer=("text",),
        text="How can you be sure that you are getting the best deal on your car",
    ),
    Case(
        model="bloom-torchserve",
        path="/v1/models/bloom:predict",
        body={"instances": [{"data": KUBERNETES, "max_new_tokens": 18}]},
        answer=("predictions", 0),
        text=BLOOM,
    ),
]

REFUSED = [
    ("tiny-llama", "/v2/models/ensemble/generate", generate("", 5), "empty"),
    ("tiny-llama", "/v2/models/ensemble/generate", generate("again and " * 900, 5), "1024"),
    ("tiny-llama", "/v2/models/ensemble/generate", generate("Hello", 0), "max_tokens"),
    ("llama-manual", "/v2/models/ensemble/generate", {"text_input": "Hello"}, "max_tokens"),
    ("llama-import", "/v2/models/llama-import/generate", generate("", 5), "empty"),
    ("two-models", "/v2/models/tiny-opt/infer", infer(""), "empty"),
    ("two-models", "/v2/models/tiny-llama/generate", {"text_input": "again and " * 900}, "256"),
    ("two-models", "/v2/models/tiny-opt/generate", {"text_input": "Hello", "max_tokens": -1}, "max_tokens"),
    ("two-models", "/v2/models/tiny-opt/generate", {"text_input": "Hello", "temprature": 1.0}, "temprature"),
    ("bloom-torchserve", "/v1/models/bloom:predict", {"instances": [""]}, "empty"),
    ("bloom-torchserve", "/v1/models/bloom:predict", {"instances": ["again and " * 900]}, "80"),
    ("bloom-torchserve", "/v1/models/bloom:predict", {"instances": 5}, "instances"),
]


@pytest.fixture(scope="module")
def models(local: TestStack) -> dict[str, Any]:
    found: dict[str, Any] = local.outputs()["models"]
    return found


def post(models: Mapping[str, Any], model: str, path: str, body: Mapping[str, Any]) -> httpx.Response:
    served = models[model]
    return httpx.post(f"{served['url']}{path}", headers={"Host": served["host"]}, json=body, timeout=120)


def asked(models: Mapping[str, Any], case: Case) -> Any:
    response = post(models, case.model, case.path, case.body)
    assert response.status_code == 200, response.text
    found = response.json()
    for step in case.answer:
        found = found[step]
    return found


class TestEachRecipeServesItsModel:
    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_word_for_word(self, models: Mapping[str, Any], case: Case) -> None:
        assert asked(models, case) == case.text

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_to_many_at_once(self, models: Mapping[str, Any], case: Case) -> None:
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(lambda _: asked(models, case), range(16)))
        assert set(answers) == {case.text}

    def test_no_recipe_is_left_out(self, local: TestStack, models: Mapping[str, Any]) -> None:
        from stacks.settings import parse_settings, read_stack_file, stack_file

        file = stack_file("local")
        stack = parse_settings(read_stack_file(file), file)
        served = {stack.models[case.model].recipe.name for case in CASES} | {"fastertransformer"}
        assert served == {model.recipe.name for model in stack.models.values()}
        assert set(models) == set(stack.models)


class TestAStream:
    @pytest.mark.parametrize(
        ("model", "path", "body", "answer", "text"),
        [
            (
                "two-models",
                "/v2/models/tiny-opt_stream/generate_stream",
                {"text_input": "How can you be"},
                "text",
                "How can you be sure that you are getting the best deal on your car",
            ),
            (
                "llama-import",
                "/v2/models/llama-import/generate_stream",
                {**generate(PLAYER, 30), "stream": True},
                "text_output",
                JORDAN,
            ),
        ],
    )
    def test_comes_in_pieces_that_make_the_answer(
        self, models: Mapping[str, Any], model: str, path: str, body: dict[str, Any], answer: str, text: str
    ) -> None:
        served = models[model]
        pieces = []
        with httpx.stream(
            "POST", f"{served['url']}{path}", headers={"Host": served["host"]}, json=body, timeout=120
        ) as response:
            assert response.status_code == 200
            pieces += [json.loads(line[5:])[answer] for line in response.iter_lines() if line.startswith("data:")]
        assert "".join(pieces) == text and len([piece for piece in pieces if piece]) > 5


class TestModelsOfAServerInExplicitControl:
    def test_one_is_unloaded_and_loaded_while_the_other_serves(self, models: Mapping[str, Any]) -> None:
        opt = next(case for case in CASES if case.path == "/v2/models/tiny-opt/infer")
        llama = next(case for case in CASES if case.path == "/v2/models/tiny-llama/generate")
        try:
            assert post(models, "two-models", "/v2/repository/models/tiny-opt/unload", {}).status_code == 200
            assert post(models, opt.model, opt.path, opt.body).status_code >= 400
            assert asked(models, llama) == llama.text
        finally:
            assert post(models, "two-models", "/v2/repository/models/tiny-opt/load", {}).status_code == 200
        assert asked(models, opt) == opt.text


class TestAWrongRequest:
    @pytest.mark.parametrize(("model", "path", "body", "reason"), REFUSED)
    def test_is_refused_with_the_reason_and_the_next_is_served(
        self, models: Mapping[str, Any], model: str, path: str, body: Mapping[str, Any], reason: str
    ) -> None:
        response = post(models, model, path, body)
        assert 400 <= response.status_code < 500, f"{response.status_code}: {response.text}"
        assert reason in response.text and "Traceback" not in response.text
        right = next(case for case in CASES if case.model == model)
        assert asked(models, right) == right.text

    @pytest.mark.parametrize("case", CASES, ids=str)
    def test_a_caller_that_hangs_up_leaves_the_server_well(self, models: Mapping[str, Any], case: Case) -> None:
        served = models[case.model]
        for _ in range(3):
            with pytest.raises(httpx.TimeoutException):
                httpx.post(
                    f"{served['url']}{case.path}",
                    headers={"Host": served["host"]},
                    json=dict(case.body),
                    timeout=httpx.Timeout(10, read=0.001),
                )
        assert asked(models, case) == case.text
