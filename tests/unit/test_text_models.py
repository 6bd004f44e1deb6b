"""The pure parts of preprocessing, postprocessing and tensorrt_llm_bls."""

import ast
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from engine_jobs.errors import UserError
from engine_jobs.image import REPOSITORY, Image, source_files
from engine_jobs.tensorrt_llm.repository_models import FILES, version_files
from engine_jobs.tensorrt_llm.repository_models.answers import Postprocessing
from engine_jobs.tensorrt_llm.repository_models.bls_request import (
    engine_inputs,
    joined,
    preprocessing_inputs,
    request_rows,
)
from engine_jobs.tensorrt_llm.repository_models.engine_limits import EngineLimits, read_engine_limits
from engine_jobs.tensorrt_llm.repository_models.parameters import flag, read_parameters
from engine_jobs.tensorrt_llm.repository_models.prompts import Preprocessing, word_table
from engine_jobs.tensorrt_llm.repository_models.text_stream import TextStream
from engine_jobs.tensorrt_llm.repository_models.tokenizer import Tokenizer, read_tokenizer
from tests.unit.llama_tokenizer import END, write_tokenizer


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> Tokenizer:
    return read_tokenizer(write_tokenizer(tmp_path_factory.mktemp("tokenizer")))


@pytest.fixture
def preprocessing(tokenizer: Tokenizer) -> Preprocessing:
    return Preprocessing(tokenizer=tokenizer, add_special_tokens=True, limits=EngineLimits())


def text(*rows: str) -> np.ndarray[Any, Any]:
    return np.array([[row.encode()] for row in rows], dtype=np.object_)


def asked(*prompts: str, tokens: int = 5, **more: Any) -> dict[str, np.ndarray[Any, Any]]:
    return {"QUERY": text(*prompts), "REQUEST_OUTPUT_LEN": np.full((len(prompts), 1), tokens, dtype=np.int32), **more}


@pytest.mark.parametrize("model", FILES)
def test_a_model_takes_along_all_that_it_imports(model: str) -> None:
    module = f"engine_jobs.tensorrt_llm.repository_models.{model}.model"
    imported = set(source_files(Image(name="x", folder="x", modules=(module,))))
    own = {path for path in imported if f"/{model}/" in path}
    assert set(version_files(model).values()) == (imported - own) | {version_files(model)["model.py"]}


@pytest.mark.parametrize("model", FILES)
def test_no_two_models_share_a_module_that_needs_triton(model: str) -> None:
    for target, source in version_files(model).items():
        names = {
            alias.name
            for node in ast.walk(ast.parse((REPOSITORY / source).read_text()))
            if isinstance(node, ast.Import)
            for alias in node.names
        }
        assert ("triton_python_backend_utils" in names) == (target == "model.py")


def test_a_batch_is_filled_up_with_the_end_token_where_there_is_no_padding_token(preprocessing: Preprocessing) -> None:
    made = preprocessing.answer(asked("ab", "abcd"))
    assert made["REQUEST_INPUT_LEN"].tolist() == [[4], [6]]
    assert made["INPUT_ID"].shape == (2, 6)
    assert made["INPUT_ID"][0, 4:].tolist() == [END, END]
    assert made["INPUT_ID"][:, 0].tolist() == [1, 1]
    assert made["OUT_END_ID"].tolist() == made["OUT_PAD_ID"].tolist() == [[END], [END]]
    assert {made[name].dtype for name in ("INPUT_ID", "REQUEST_INPUT_LEN", "STOP_WORDS_IDS")} == {np.dtype(np.int32)}


def test_special_tokens_can_be_left_out(tokenizer: Tokenizer) -> None:
    bare = Preprocessing(tokenizer=tokenizer, add_special_tokens=False, limits=EngineLimits())
    assert 1 not in bare.answer(asked("ab"))["INPUT_ID"]


def test_the_requests_end_and_padding_ids_win(preprocessing: Preprocessing) -> None:
    ids: dict[str, Any] = {"END_ID": np.array([[7]], dtype=np.int32), "PAD_ID": np.array([[8]], dtype=np.int32)}
    made = preprocessing.answer(asked("ab", **ids))
    assert (made["OUT_END_ID"].tolist(), made["OUT_PAD_ID"].tolist()) == ([[7]], [[8]])


def test_words_are_their_tokens_on_end_and_where_each_ends() -> None:
    table = word_table([[(5, 6), (7,)], []])
    assert table.tolist() == [[[5, 6, 7], [2, 3, -1]], [[0, 0, 0], [-1, -1, -1]]]
    assert word_table([[]]).tolist() == [[[0], [-1]]]


def test_a_stop_word_is_found_at_the_start_of_a_word_and_inside_one(
    preprocessing: Preprocessing, tokenizer: Tokenizer
) -> None:
    words = np.array([[b"af", b""]], dtype=np.object_)
    (flat, ends) = preprocessing.answer(asked("x", STOP_WORDS_DICT=words))["STOP_WORDS_IDS"][0].tolist()
    alone, inside = tokenizer.encode("af", False), tokenizer.encode("caf", False)[1:]
    assert flat == [*alone, *inside]
    assert ends == [len(alone), len(alone) + len(inside), -1]


def test_an_empty_word_is_no_word(preprocessing: Preprocessing) -> None:
    made = preprocessing.answer(asked("x", BAD_WORDS_DICT=text("")))
    assert made["BAD_WORDS_IDS"].tolist() == [[[0], [-1]]]


def test_an_embedding_bias_adds_its_weight_to_each_token_of_a_word(
    preprocessing: Preprocessing, tokenizer: Tokenizer
) -> None:
    bias: dict[str, Any] = {
        "EMBEDDING_BIAS_WORDS": text("bb"),
        "EMBEDDING_BIAS_WEIGHTS": np.array([[1.5]], dtype=np.float32),
    }
    made = preprocessing.answer(asked("x", **bias))["EMBEDDING_BIAS"]
    assert made.shape == (1, tokenizer.size)
    assert made[0, tokenizer.encode("b", False)[-1]] == 3.0


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        (asked(""), "the prompt is empty"),
        (asked("ab", ""), "the prompt 2 of 2 is empty"),
        (asked("ab", tokens=0), "is 0; it must be 1 or more"),
        ({"QUERY": text("ab")}, "max_tokens .* is missing"),
        (asked("ab", END_ID=np.array([[1], [2]])), "END_ID has 2 values for 1 rows"),
        ({**asked("ab"), "QUERY": np.array([[b"\xff"]], dtype=np.object_)}, "QUERY is not UTF-8"),
        (asked("ab", IMAGE_URL=text("http://image")), "IMAGE_URL: this model reads text only"),
        (asked("ab", STOP_WORDS_DICT=text("a", "b")), "STOP_WORDS_DICT has 2 rows, and there are 1 prompts"),
    ],
)
def test_a_bad_request_is_refused_in_words(
    preprocessing: Preprocessing, tensors: dict[str, np.ndarray[Any, Any]], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        preprocessing.answer(tensors)


@pytest.mark.parametrize(
    ("limits", "reason"),
    [
        (EngineLimits(max_input_len=5), "takes 5 at most"),
        (EngineLimits(max_seq_len=6), "leaves none of this engine's 6"),
    ],
)
def test_a_prompt_past_the_engines_limits_is_refused(tokenizer: Tokenizer, limits: EngineLimits, reason: str) -> None:
    bounded = Preprocessing(tokenizer=tokenizer, add_special_tokens=True, limits=limits)
    assert bounded.answer(asked("abc"))["REQUEST_INPUT_LEN"].tolist() == [[5]]
    with pytest.raises(UserError, match=reason):
        bounded.answer(asked("abcd"))


def test_an_engine_says_its_limits(tmp_path: Path) -> None:
    (tmp_path / "config.json").write_text(
        json.dumps(
            {"build_config": {"max_input_len": 1024, "max_seq_len": None}, "pretrained_config": {"vocab_size": 32000}}
        )
    )
    assert read_engine_limits(tmp_path) == EngineLimits(max_input_len=1024, vocab_size=32000)
    assert read_engine_limits(None) == read_engine_limits(tmp_path / "elsewhere") == EngineLimits()


def test_a_tokenizer_without_an_end_token_or_none_at_all_is_refused(tmp_path: Path) -> None:
    folder = write_tokenizer(tmp_path / "tokenizer")
    (folder / "tokenizer_config.json").write_text("{}")
    with pytest.raises(UserError, match="names an eos_token"):
        read_tokenizer(folder)
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be read"):
        read_tokenizer(folder)
    with pytest.raises(UserError, match="is not a folder"):
        read_tokenizer(tmp_path / "elsewhere")


def test_parameters_that_a_template_left_unfilled_are_not_there() -> None:
    config = {"parameters": {"a": {"string_value": "${a}"}, "b": {"string_value": ""}, "c": {"string_value": "No"}}}
    parameters = read_parameters(json.dumps(config))
    assert parameters == {"c": "No"}
    assert (flag(parameters, "a", True), flag(parameters, "c", True)) == (True, False)
    with pytest.raises(UserError, match="write true or false"):
        flag({"a": "maybe"}, "a", True)


def test_answers_are_decoded_up_to_their_length(tokenizer: Tokenizer) -> None:
    ids = tokenizer.encode("abc", False)
    tokens = np.array([[[*ids, END], [ids[0], ids[1], END, END, END]]], dtype=np.int32)
    made = Postprocessing(tokenizer=tokenizer, skip_special_tokens=True).answer(
        {"TOKENS_BATCH": tokens, "SEQUENCE_LENGTH": np.array([[5, 3]], dtype=np.int32)}
    )
    assert made["OUTPUT"].tolist() == [[b"abc", b"a"]]


@pytest.mark.parametrize(
    ("tokens", "lengths", "reason"),
    [
        (np.zeros((1, 4)), np.array([[4]]), "they must be"),
        (np.zeros((1, 1, 4)), np.array([[5]]), "within the 4 tokens"),
        (np.full((1, 1, 4), -1), np.array([[4]]), "-1, which is no token"),
    ],
)
def test_tensors_that_are_no_answer_are_refused(
    tokenizer: Tokenizer, tokens: np.ndarray[Any, Any], lengths: np.ndarray[Any, Any], reason: str
) -> None:
    with pytest.raises(UserError, match=reason):
        Postprocessing(tokenizer=tokenizer, skip_special_tokens=True).answer(
            {"TOKENS_BATCH": tokens.astype(np.int32), "SEQUENCE_LENGTH": lengths.astype(np.int32)}
        )


@pytest.mark.parametrize("at_once", [1, 2, 5])
@pytest.mark.parametrize("said", ["Le café de Zürich… déjà", "\nabc", "日本語", "a  b", ""])
def test_pieces_of_tokens_join_to_the_text_of_all(tokenizer: Tokenizer, said: str, at_once: int) -> None:
    def decode(sequences: Sequence[Sequence[int]]) -> list[str]:
        return [tokenizer.decode(ids, True) for ids in sequences]

    ids = tokenizer.encode(said, False)
    stream = TextStream(decode)
    pieces = [stream.feed(ids[start : start + at_once]) for start in range(0, len(ids), at_once)]
    assert not any("\ufffd" in piece for piece in pieces)
    assert "".join([*pieces, stream.finish()]) == tokenizer.decode(ids, True) == stream.text


def test_rows_go_to_the_engine_one_by_one_under_its_names() -> None:
    rows = request_rows(
        {"text_input": text("a", "b"), "top_k": np.array([[1], [3]]), "return_log_probs": np.array([True, False])},
        decoupled=True,
    )
    assert preprocessing_inputs(rows[1])["QUERY"].tolist() == [[b"b"]]
    prepared = {
        "INPUT_ID": np.array([[1, 2]]),
        "STOP_WORDS_IDS": np.zeros((1, 2, 0)),
        "EMBEDDING_BIAS": np.ones((1, 3)),
    }
    made = engine_inputs(rows[1], prepared)
    assert {name: value.tolist() for name, value in made.items()} == {
        "input_ids": [[1, 2]],
        "runtime_top_k": [[3]],
        "return_log_probs": [[False]],
    }


@pytest.mark.parametrize(
    ("tensors", "reason"),
    [
        ({}, "text_input is missing"),
        ({"text_input": text("a"), "num_draft_tokens": np.array([[3]])}, "no draft model"),
        ({"text_input": text("a"), "stream": np.array([[True]])}, "decoupled_mode true"),
        ({"text_input": text("a", "b"), "max_tokens": np.array([[3]])}, "max_tokens has shape"),
    ],
)
def test_what_the_bls_model_does_not_do_is_refused(tensors: dict[str, np.ndarray[Any, Any]], reason: str) -> None:
    with pytest.raises(UserError, match=reason):
        request_rows(tensors, decoupled=False)


def test_rows_of_unequal_length_are_one_answer() -> None:
    rows = [{"output_log_probs": np.ones((1, 1, 2)), "x": np.ones((1, 1))}, {"output_log_probs": np.ones((1, 1, 3))}]
    answer = joined(rows)
    assert list(answer) == ["output_log_probs"]
    assert answer["output_log_probs"].tolist() == [[[1, 1, 0]], [[1, 1, 1]]]
