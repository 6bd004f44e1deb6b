"""The transformer's checks, tensors and answers. KServe's package is not needed: it only wraps these."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer.completion import BadRequest, Limits, Prompt, PromptTokenizer, read_prompts
from engine_jobs.fastertransformer.transformer import parse_options

LIMITS = Limits(output_tokens=100, input_tokens=12, inputs=3)
END = 256


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A tokenizer of one token for each byte and an end token, which asks for padding and truncation as a file may."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE(vocab={letter: i for i, letter in enumerate(alphabet)}, merges=[]))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens(["</s>"])
    tokenizer.enable_padding(direction="left", pad_id=END, pad_token="</s>", length=20)
    tokenizer.enable_truncation(4)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    return tmp_path


def prompt(text: str, output_len: int = 5, **parameters: int | float) -> Prompt:
    return Prompt(text=text, output_len=output_len, parameters=parameters)


def body(*inputs: Any) -> dict[str, Any]:
    return {"inputs": list(inputs)}


class TestAGoodRequestIsRead:
    def test_as_the_tutorial_sends_it(self) -> None:
        read = read_prompts(body({"input": "Kubernetes is", "output_len": "18"}), LIMITS)
        assert read == [prompt("Kubernetes is", 18)]

    def test_with_a_number(self) -> None:
        assert read_prompts(body({"input": "a", "output_len": 1}), LIMITS) == [prompt("a", 1)]

    def test_under_the_v1_protocol_s_own_name(self) -> None:
        assert read_prompts({"instances": [{"input": "a", "output_len": 1}]}, LIMITS) == [prompt("a", 1)]

    def test_where_the_client_named_no_json_content_type(self) -> None:
        text = json.dumps(body({"input": "é", "output_len": 1}))
        assert read_prompts(text.encode(), LIMITS) == [prompt("é", 1)]

    def test_with_parameters_of_every_kind(self) -> None:
        entry = {"input": "a", "output_len": 1, "runtime_top_k": "4", "temperature": 1, "random_seed": 2**64 - 1}
        (read,) = read_prompts(body(entry), LIMITS)
        assert read.parameters == {"runtime_top_k": 4, "temperature": 1.0, "random_seed": 2**64 - 1}


class TestABadRequestIsRefusedWithItsPlace:
    @pytest.mark.parametrize(
        ("request_body", "said"),
        [
            (b"{", "not JSON"),
            (b"\xff", "not JSON"),
            ([], 'no "inputs"'),
            (None, 'no "inputs"'),
            ({"input": "a"}, 'no "inputs"'),
            ({"inputs": "a"}, "must be a list"),
            (body(), "at least one"),
            (body(*[{"input": "a", "output_len": 1}] * 4), "4 entries, and one request may have 3"),
            (body("a"), r"inputs\[0\] must be an object .* not a string"),
            (body({"output_len": 1}), r'inputs\[0\] has no "input"'),
            (
                body({"input": "a", "output_len": 1}, {"input": 5, "output_len": 1}),
                r"inputs\[1\]\.input .* not a number",
            ),
            (body({"input": None, "output_len": 1}), r"inputs\[0\]\.input must be a string, not null"),
            (body({"input": "", "output_len": 1}), r"inputs\[0\]\.input is empty"),
            (body({"input": "a"}), 'no "output_len"'),
            (body({"input": "a", "output_len": 0}), "above 0, not 0"),
            (body({"input": "a", "output_len": -3}), "above 0, not -3"),
            (body({"input": "a", "output_len": 1.5}), "above 0, not 1.5"),
            (body({"input": "a", "output_len": True}), "above 0, not true"),
            (body({"input": "a", "output_len": "many"}), 'above 0, not "many"'),
            (body({"input": "a", "output_len": "٣"}), "above 0"),
            (body({"input": "a", "output_len": 101}), "is 101, and this server generates at most 100"),
            (body({"input": "a", "output_len": "9" * 5000}), "at most 100"),
            (body({"input": "a", "output_len": 1, "top_k": 1}), r"unknown keys \['top_k'\].*runtime_top_k"),
            (body({"input": "a", "output_len": 1, "temperature": "hot"}), "temperature must be a number"),
            (body({"input": "a", "output_len": 1, "temperature": float("inf")}), "temperature must be a number"),
            (body({"input": "a", "output_len": 1, "runtime_top_k": -1}), "from 0 to 4294967295"),
            (body({"input": "a", "output_len": 1, "random_seed": 2**64}), "from 0 to 18446744073709551615"),
            (body({"input": "a", "output_len": 1, "beam_width": 0}), "1 or more"),
        ],
    )
    def test_each(self, request_body: object, said: str) -> None:
        with pytest.raises(BadRequest, match=said):
            read_prompts(request_body, LIMITS)

    def test_a_parameter_of_some_inputs_only(self) -> None:
        inputs = ({"input": "a", "output_len": 1, "temperature": 0.5}, {"input": "b", "output_len": 1})
        with pytest.raises(BadRequest, match='"temperature" must be given for all inputs or for none'):
            read_prompts(body(*inputs), LIMITS)

    def test_beams_of_different_widths_in_one_batch(self) -> None:
        inputs = [{"input": "a", "output_len": 1, "beam_width": width} for width in (1, 2)]
        with pytest.raises(BadRequest, match='"beam_width" must be the same'):
            read_prompts(body(*inputs), LIMITS)


class TestTensorsAreThoseOfTheBackend:
    def test_one_input(self, folder: Path) -> None:
        tensors = PromptTokenizer(folder).tensors([prompt("hello", 7)], LIMITS)
        assert {name: (array.dtype.name, array.shape) for name, array in tensors.items()} == {
            "input_ids": ("uint32", (1, 5)),
            "input_lengths": ("uint32", (1, 1)),
            "request_output_len": ("uint32", (1, 1)),
        }
        assert tensors["input_lengths"].tolist() == [[5]]
        assert tensors["request_output_len"].tolist() == [[7]]

    def test_a_shorter_input_is_padded_at_its_end(self, folder: Path) -> None:
        tokenizer = PromptTokenizer(folder)
        together = tokenizer.tensors([prompt("hello"), prompt("hi")], LIMITS)
        alone = tokenizer.tensors([prompt("hi")], LIMITS)
        assert together["input_ids"].shape == (2, 5)
        assert together["input_lengths"].tolist() == [[5], [2]]
        assert together["input_ids"][1, :2].tolist() == alone["input_ids"][0].tolist()

    def test_parameters_are_columns_of_their_types(self, folder: Path) -> None:
        prompts = [prompt("a", temperature=0.5, random_seed=2**63), prompt("b", temperature=1.0, random_seed=1)]
        tensors = PromptTokenizer(folder).tensors(prompts, LIMITS)
        assert tensors["temperature"].dtype == np.float32
        assert tensors["temperature"].tolist() == [[0.5], [1.0]]
        assert tensors["random_seed"].dtype == np.uint64
        assert tensors["random_seed"].tolist() == [[2**63], [1]]
        assert "runtime_top_k" not in tensors

    def test_an_input_of_too_many_tokens_is_refused(self, folder: Path) -> None:
        with pytest.raises(BadRequest, match="input 1 has 13 tokens, and this server takes at most 12"):
            PromptTokenizer(folder).tensors([prompt("a"), prompt("a" * 13)], LIMITS)


class TestTheAnswerIsThePromptAndItsContinuation:
    def ids(self, tokenizer: PromptTokenizer, text: str) -> list[int]:
        limits = Limits(output_tokens=1, input_tokens=1000, inputs=1)
        row: list[int] = tokenizer.tensors([prompt(text)], limits)["input_ids"][0].tolist()
        return row

    def answer(self, folder: Path, prompts: list[Prompt], beams: list[list[str]], filler: int = END) -> list[list[str]]:
        """What the transformer says where the backend goes on with these texts, as gatherTree lays them out."""
        tokenizer = PromptTokenizer(folder)
        asked = tokenizer.tensors(prompts, LIMITS)
        width = asked["input_ids"].shape[1]
        longest = width + max(asked["request_output_len"].ravel())
        rows, lengths = [], []
        for each, texts in zip(prompts, beams, strict=True):
            generated = [self.ids(tokenizer, text) for text in texts]
            joined = [self.ids(tokenizer, each.text) + ids for ids in generated]
            rows.append([ids + [filler] * (longest - len(ids)) for ids in joined])
            lengths.append([width + len(ids) for ids in generated])
        return tokenizer.texts(asked, np.array(rows, np.uint32), np.array(lengths, np.uint32))

    def test_one_text_for_each_beam_of_each_input(self, folder: Path) -> None:
        prompts = [prompt("a b"), prompt("a c")]
        assert self.answer(folder, prompts, [[" d", " e"], [" fg", "h"]]) == [["a b d", "a b e"], ["a c fg", "a ch"]]

    def test_a_shorter_input_of_a_batch_is_as_long_as_it_is(self, folder: Path) -> None:
        filler = ord("!")
        said = self.answer(folder, [prompt("longer text"), prompt("x")], [[" y"], [" z"]], filler)
        assert said == [["longer text y"], ["x z"]]

    def test_text_of_several_bytes_a_character_comes_back_as_it_was(self, folder: Path) -> None:
        assert self.answer(folder, [prompt("Größe  ")], [["🙂"]]) == [["Größe  🙂"]]

    def test_the_end_token_is_not_said(self, folder: Path) -> None:
        assert self.answer(folder, [prompt("ab")], [["</s>"]]) == [["ab"]]

    def test_no_more_than_was_asked_for_is_said(self, folder: Path) -> None:
        tokenizer = PromptTokenizer(folder)
        asked = tokenizer.tensors([prompt("ab", 1)], LIMITS)
        output = np.array([[self.ids(tokenizer, "abcdef")]], np.uint32)
        assert tokenizer.texts(asked, output, np.array([[6]], np.uint32)) == [["abc"]]


class TestTheCommandLine:
    REQUIRED = ("--model_name", "m", "--tokenizer_path", "/t", "--predictor_host", "h:80")

    def test_the_tutorial_s_with_what_kserve_adds(self) -> None:
        options = parse_options([*self.REQUIRED, "--protocol", "v2", "--http_port", "8081", "--workers", "1"])
        assert (options.model_name, options.protocol, options.http_port) == ("m", "v2", 8081)
        assert options.tokenizer_path == Path("/t")
        assert options.predictor_host == "h:80"

    def test_the_predictor_s_protocol_beats_the_general_one(self) -> None:
        options = parse_options([*self.REQUIRED, "--protocol", "v2", "--predictor_protocol", "grpc-v2"])
        assert options.protocol == "grpc-v2"

    def test_a_predictor_is_required(self, capsys: pytest.CaptureFixture[str]) -> None:
        with pytest.raises(SystemExit) as ended:
            parse_options(self.REQUIRED[:4])
        assert ended.value.code == 2
        assert "--predictor_host" in capsys.readouterr().err

    def test_a_folder_without_a_tokenizer_is_named(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match=f"{tmp_path} has no tokenizer.json"):
            PromptTokenizer(tmp_path)

    def test_a_broken_tokenizer_is_named(self, tmp_path: Path) -> None:
        (tmp_path / "tokenizer.json").write_text("{")
        with pytest.raises(UserError, match=r"tokenizer\.json is not a tokenizer"):
            PromptTokenizer(tmp_path)
