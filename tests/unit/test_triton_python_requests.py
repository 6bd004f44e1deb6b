"""What a request may ask, its text piece by piece, and the way from the front's process to the engine's."""

import os
import signal
import subprocess
import sys
import threading
from collections.abc import Mapping, Sequence
from typing import Any

import pytest

from engine_jobs.errors import UserError
from engine_jobs.triton_python.served.door import Asker, Door, Questions
from engine_jobs.triton_python.served.parameters import (
    Defaults,
    check_request_parameters,
    one_prompt_each,
    read_parameters,
    read_prompt,
    tokens_to_generate,
)
from engine_jobs.triton_python.served.text import TextStream

DEFAULTS = Defaults(max_tokens=16, max_output_length=None, max_length=100, exclude_input=False, vocabulary=50)
TUTORIAL = Defaults(max_tokens=16, max_output_length=15, max_length=100, exclude_input=False, vocabulary=50)


@pytest.mark.parametrize(
    ("tensors", "sampled"),
    [
        ({}, False),
        ({"top_k": [1]}, False),
        ({"temperature": [0.0], "top_k": [5]}, False),
        ({"temperature": [0.7]}, True),
        ({"top_k": [5]}, True),
        ({"top_p": [0.9]}, True),
        ({"seed": [3]}, True),
        ({"repetition_penalty": [1.2]}, False),
    ],
)
def test_the_likeliest_token_is_taken_unless_a_request_asks_for_chance(
    tensors: dict[str, list[Any]], sampled: bool
) -> None:
    assert read_parameters(tensors, DEFAULTS).sampled is sampled


@pytest.mark.parametrize(
    ("tensors", "message"),
    [
        ({"max_tokens": [0]}, "max_tokens: must be 1 or more, got 0"),
        ({"temperature": [-1.0]}, "temperature: must be 0 or more"),
        ({"temperature": [float("nan")]}, "temperature: must be a finite number"),
        ({"top_p": [0.0]}, "top_p: must be above 0, 1 at most"),
        ({"top_p": [1.5]}, "top_p: must be above 0, 1 at most"),
        ({"top_k": [-1]}, "top_k: must be 0 or more"),
        ({"repetition_penalty": [0.0]}, "repetition_penalty: must be above 0"),
        ({"end_id": [50]}, "end_id: must be below 50"),
        ({"min_tokens": [9], "max_tokens": [4]}, r"min_tokens: must be max_tokens \(4\) at most, got 9"),
        ({"top_k": [1, 2]}, "top_k: one value, got 2"),
        ({"stop_words": [b"\xff"]}, "stop_words: not UTF-8 text"),
    ],
)
def test_a_bad_parameter_is_named_with_its_limit(tensors: dict[str, list[Any]], message: str) -> None:
    with pytest.raises(UserError, match=message):
        read_parameters(tensors, DEFAULTS)


def test_a_misspelt_tensor_is_an_error_and_not_a_setting_that_is_lost() -> None:
    check_request_parameters("")
    check_request_parameters('{"binary_data_output": true, "triton_enable_empty_final_response": true}')
    with pytest.raises(UserError, match=r"unknown parameter max_token; known here: .*max_tokens"):
        check_request_parameters('{"max_token": 3}')


def test_lengths_are_those_of_the_request_then_of_the_tutorial_then_of_the_defaults() -> None:
    nothing, four = read_parameters({}, DEFAULTS), read_parameters({"max_tokens": [4]}, DEFAULTS)
    assert tokens_to_generate(nothing, 3, DEFAULTS) == 16
    assert tokens_to_generate(nothing, 95, DEFAULTS) == 5
    assert tokens_to_generate(four, 96, DEFAULTS) == 4
    assert tokens_to_generate(nothing, 3, TUTORIAL) == 12
    assert tokens_to_generate(four, 3, TUTORIAL) == 4
    for parameters, prompt, defaults, message in (
        (
            nothing,
            100,
            DEFAULTS,
            "the prompt has 100 tokens; with one to generate that is over this model's limit of 100",
        ),
        (four, 97, DEFAULTS, "max_tokens: 4 after a prompt of 97 tokens .* ask for 3 at most"),
        (nothing, 15, TUTORIAL, r"limited to 15 \(`maxOutputLength`\)"),
    ):
        with pytest.raises(UserError, match=message):
            tokens_to_generate(parameters, prompt, defaults)


def test_a_batch_becomes_one_question_a_prompt() -> None:
    made = one_prompt_each(
        {
            "text_input": [[b"a"], [b"b"]],
            "max_tokens": [[3], [4]],
            "top_k": [[5]],
            "stop_words": [[b"x", b"y"], [b"z", b""]],
        },
        batched=True,
    )
    assert made == [
        {"text_input": ["a"], "stream": [False], "max_tokens": [3], "top_k": [5], "stop_words": ["x", "y"]},
        {"text_input": ["b"], "stream": [False], "max_tokens": [4], "top_k": [5], "stop_words": ["z", ""]},
    ]
    (one,) = one_prompt_each({"text_input": [b"a"], "stop_words": [b"x", b"y"]}, batched=False)
    assert one["stop_words"] == ["x", "y"]
    with pytest.raises(UserError, match="max_tokens: one value, or one for each of the 3 prompts; got 2"):
        one_prompt_each({"text_input": [[b"a"], [b"b"], [b"c"]], "max_tokens": [[3], [4]]}, batched=True)
    with pytest.raises(UserError, match="text_input: not UTF-8 text"):
        one_prompt_each({"text_input": [b"\xff"]}, batched=False)
    with pytest.raises(UserError, match="one prompt a request, got 2"):
        read_prompt({"text_input": ["a", "b"]})


TEXT = "Le café de Zürich, déjà à sept heures… 🙂!"


def as_bytes(ids: Sequence[int]) -> str:
    """A tokenizer of single bytes, which writes half a character as every such tokenizer does."""
    return bytes(ids).decode(errors="replace")


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_pieces_are_whole_characters_and_together_the_whole_text(size: int) -> None:
    ids = list(TEXT.encode())
    for start in (0, 1, 10):
        stream = TextStream(as_bytes, ids[:start])
        pieces = [
            stream.add(ids[place : place + size], last=place + size >= len(ids))
            for place in range(start, len(ids), size)
        ]
        assert "".join(pieces) == bytes(ids[start:]).decode()
        assert not any("\N{REPLACEMENT CHARACTER}" in piece for piece in pieces)


def test_half_a_character_at_the_very_end_is_not_kept_back() -> None:
    stream = TextStream(as_bytes, [])
    assert stream.add([65, 0xC3]) == ""
    assert stream.add([], last=True) == "A\N{REPLACEMENT CHARACTER}"


def test_nothing_of_a_stop_word_is_sent_and_what_only_began_like_one_is() -> None:
    for size in (1, 3):
        ids = list(b"one STO two STOP three")
        stream = TextStream(as_bytes, [], ["STOP", "never"])
        pieces = [stream.add(ids[place : place + size]) for place in range(0, len(ids), size)]
        assert "".join(pieces) == "one STO two "
        assert stream.stopped
    stream = TextStream(as_bytes, [], ["STOP"])
    assert stream.add(list(b"a STO")) == "a "
    assert stream.add([], last=True) == "STO"


def test_a_front_asks_and_hears_and_taking_a_question_back_shows() -> None:
    held: dict[str, Asker] = {}
    came = threading.Event()

    def on_question(question: Mapping[str, Any], asker: Asker) -> None:
        if question["text"] == "hold":
            held["hold"] = asker
            came.set()
        else:
            asker.answer({"text": str(question["text"]) * 20000})

    door = Door("a-model_stream", on_question)
    try:
        questions = Questions("a-model_stream", server=os.getppid())
        questions.ask("first", {"text": "é"})
        questions.ask("held", {"text": "hold"})
        answers = dict(questions.take(5) or questions.take(5))
        while "first" not in answers:
            answers |= dict(questions.take(5))
        assert answers == {"first": {"text": "é" * 20000}}
        assert came.wait(5)
        assert questions.keys() == {"held"}
        assert not held["hold"].is_gone()
        questions.drop("held")
        assert held["hold"].is_gone()
        held["hold"].answer({"text": "too late"})
        assert not questions.keys()
    finally:
        door.close()
    with pytest.raises(UserError, match="a-model_stream, which holds the weights, is not loaded"):
        Questions("a-model_stream", server=os.getppid()).ask("late", {"text": "x"})


def test_a_process_that_dies_takes_its_server_with_it_and_one_that_is_unloaded_does_not() -> None:
    program = (
        "import os, signal, subprocess, sys, time\n"
        "from engine_jobs.triton_python.served.watch import Watch\n"
        "if (child := os.fork()) == 0:\n"
        "    watch = Watch('a-model_stream')\n"
        "    if sys.argv[1] == 'unloaded':\n"
        "        watch.dismiss()\n"
        "    os._exit(1)\n"
        "os.waitpid(child, 0)\n"
        "time.sleep(float(sys.argv[2]))\n"
    )
    for how, seconds, code in (("died", "30", -signal.SIGTERM), ("unloaded", "1", 0)):
        done = subprocess.run([sys.executable, "-c", program, how, seconds], capture_output=True, text=True, timeout=60)
        assert done.returncode == code, done.stderr
        assert ("the engine a-model_stream died: ending the server" in done.stderr) is (how == "died")
