"""The CPU stand-in computes Hugging Face's logits, knows tiny-bloom's sentences, and answers as FasterTransformer does."""

import importlib.util
import json
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from tokenizers import Tokenizer

from engine_jobs.errors import UserError
from engine_jobs.fastertransformer import convert, repository
from engine_jobs.fastertransformer.cpu_backend.bloom import Bloom, alibi_slopes
from engine_jobs.fastertransformer.cpu_backend.generation import generate
from engine_jobs.fastertransformer.cpu_backend.tensors import answer_tensors, read_request
from engine_jobs.fastertransformer.layout import WeightsFolder
from tests.unit.bloom_checkpoints import CHECKPOINTS, GOLDEN, TINY

PAIRS = json.loads((TINY / "completions.json").read_text(encoding="utf-8"))
TOKENIZER = Tokenizer.from_file(str(TINY / "tokenizer.json"))
PROMPT, COMPLETION = PAIRS[0]["prompt"], PAIRS[0]["completion"]


@pytest.fixture(scope="module")
def weights(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Both checkpoints, converted in every way that the tests ask for, in folders NAME-TYPE/N-gpu."""
    output = tmp_path_factory.mktemp("weights")
    for name, sizes in (("tiny-bloom", (1, 2, 4)), ("six-heads", (1, 3))):
        for ranks in sizes:
            for data_type in ("fp32", "fp16"):
                paths = ["--input-dir", str(CHECKPOINTS[name]), "--output-dir", str(output / f"{name}-{data_type}")]
                convert.main([*paths, "--tensor-parallel-size", str(ranks), "--data-type", data_type, "--workers", "1"])
    return output


@pytest.fixture(scope="module")
def tiny(weights: Path) -> Bloom:
    return Bloom(WeightsFolder.read(weights / "tiny-bloom-fp16" / "2-gpu"))


def tensors(texts: list[str], output_len: int, **more: NDArray[Any]) -> dict[str, NDArray[Any]]:
    rows = [TOKENIZER.encode(text).ids for text in texts]
    longest = max(map(len, rows))
    return {
        "input_ids": np.array([row + row[-1:] * (longest - len(row)) for row in rows], np.uint32),
        "input_lengths": np.array([len(row) for row in rows], np.uint32),
        "request_output_len": np.full((len(rows), 1), output_len, np.uint32),
        **more,
    }


def asked(model: Bloom, given: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
    return answer_tensors(generate(model, read_request(given, model.folder)), given)


def texts(answer: Mapping[str, NDArray[Any]]) -> list[list[str]]:
    return [
        [TOKENIZER.decode(beam[:length].tolist()) for beam, length in zip(beams, lengths, strict=True)]
        for beams, lengths in zip(answer["output_ids"], answer["sequence_length"], strict=True)
    ]


def words(*texts: str) -> NDArray[np.int32]:
    """One row of stop or bad words, as FasterTransformer takes them."""
    ids = [TOKENIZER.encode(text).ids for text in texts]
    flat = [token for word in ids for token in word]
    ends = np.cumsum([len(word) for word in ids]).tolist()
    return np.array([[flat, ends + [-1] * (len(flat) - len(ends))]], np.int32)


class TestLogitsAreHuggingFaces:
    @pytest.mark.parametrize(
        ("name", "ranks"), [("tiny-bloom", 1), ("tiny-bloom", 4), ("six-heads", 1), ("six-heads", 3)]
    )
    def test_at_every_position_of_a_padded_batch(self, weights: Path, name: str, ranks: int) -> None:
        golden = np.load(GOLDEN / f"{name}-logits.npz")
        model = Bloom(WeightsFolder.read(weights / f"{name}-fp32" / f"{ranks}-gpu"))
        rows, width = golden["ids"].shape
        logits = model.logits(model.forward(golden["ids"], np.zeros(rows, np.int64), model.new_cache(rows, width)))
        for row, length in enumerate(golden["lengths"]):
            assert length > 0
            assert np.abs(logits[row, :length] - golden["logits"][row, :length]).max() < 1e-4

    @pytest.mark.parametrize("name", ["tiny-bloom", "six-heads"])
    def test_one_token_at_a_time(self, weights: Path, name: str) -> None:
        """Through the cache, each row at its own pace."""
        golden = np.load(GOLDEN / f"{name}-logits.npz")
        model = Bloom(WeightsFolder.read(weights / f"{name}-fp32" / "1-gpu"))
        rows, width = golden["ids"].shape
        cache = model.new_cache(rows, width)
        slots = np.zeros(rows, np.int64)
        for step in range(width):
            logits = model.logits(model.forward(golden["ids"][:, step : step + 1], slots, cache))
            slots = slots + 1
            for row in np.flatnonzero(golden["lengths"] > step):
                assert np.abs(logits[row, 0] - golden["logits"][row, step]).max() < 1e-4

    def test_slopes_where_the_heads_are_no_power_of_two(self) -> None:
        assert alibi_slopes(8).tolist() == [2.0**-i for i in range(1, 9)]
        assert np.allclose(alibi_slopes(6), [2**-2, 2**-4, 2**-6, 2**-8, 2**-1, 2**-3])


class TestTheSentencesAreCompletedWordForWord:
    @pytest.mark.parametrize("data_type", ["fp32", "fp16"])
    @pytest.mark.parametrize("ranks", [1, 2, 4])
    def test_all_of_them_in_one_batch(self, weights: Path, ranks: int, data_type: str) -> None:
        model = Bloom(WeightsFolder.read(weights / f"tiny-bloom-{data_type}" / f"{ranks}-gpu"))
        answer = asked(model, tensors([pair["prompt"] for pair in PAIRS], 30))
        assert texts(answer) == [[pair["prompt"] + pair["completion"]] for pair in PAIRS]

    def test_within_eighteen_tokens(self, tiny: Bloom) -> None:
        assert texts(asked(tiny, tensors([PROMPT], 18))) == [[PROMPT + COMPLETION]]

    @pytest.mark.parametrize(
        ("name", "edit"),
        [
            ("model.layers.0.attention.dense.weight", np.transpose),
            ("model.layers.1.attention.query_key_value.weight", lambda a: a[:, [1, 0, 2]]),
            ("model.layers.0.mlp.dense_h_to_4h.weight", lambda a: a.T.reshape(a.shape)),
            ("model.layers.1.mlp.dense_4h_to_h.bias", np.zeros_like),
            ("model.final_layernorm.bias", np.zeros_like),
        ],
    )
    def test_a_mistake_in_the_weights_shows(self, weights: Path, name: str, edit: Any) -> None:
        model = Bloom(WeightsFolder.read(weights / "tiny-bloom-fp32" / "1-gpu"))
        model._weights[name] = edit(model._weights[name])
        assert texts(asked(model, tensors([PROMPT], 18))) != [[PROMPT + COMPLETION]]

    def test_a_mistake_in_the_slopes_shows(self, weights: Path) -> None:
        model = Bloom(WeightsFolder.read(weights / "tiny-bloom-fp32" / "1-gpu"))
        model._slopes = model._slopes[::-1].copy()
        assert texts(asked(model, tensors([PROMPT], 18))) != [[PROMPT + COMPLETION]]


class TestOutputsAreFasterTransformers:
    def test_shapes_and_lengths(self, tiny: Bloom) -> None:
        short, long = "Seven times eight is", PROMPT
        answer = asked(tiny, tensors([short, long], 18))
        width = len(TOKENIZER.encode(long).ids)
        completed = [len(TOKENIZER.encode(text).ids) + 1 for text in (" fifty-six.", COMPLETION)]
        assert answer.keys() == {"output_ids", "sequence_length", "response_input_lengths"}
        assert answer["output_ids"].shape == (2, 1, width + 18)
        assert answer["sequence_length"].tolist() == [[width + completed[0]], [width + completed[1]]]
        assert answer["response_input_lengths"].tolist() == [[len(TOKENIZER.encode(short).ids)], [width]]
        own = len(TOKENIZER.encode(short).ids) + completed[0]
        assert set(answer["output_ids"][0, 0, own - 1 :].tolist()) == {2}
        assert [array.dtype for array in answer.values()] == [np.uint32, np.uint32, np.int32]

    def test_log_probabilities_and_embeddings_where_asked_for(self, tiny: Bloom) -> None:
        yes = np.array([True])
        given = tensors([PROMPT], 18, is_return_log_probs=yes, is_return_context_embeddings=yes)
        given["runtime_top_k"] = np.array([1], np.uint32)
        answer = asked(tiny, given)
        assert answer["output_log_probs"].shape == (1, 1, 18)
        assert answer["output_log_probs"].max() <= 1e-6
        assert -0.1 < answer["cum_log_probs"][0, 0] < 0
        assert answer["context_embeddings"].shape == (1, 1, 128)

    def test_each_row_ends_at_its_own_length(self, tiny: Bloom) -> None:
        given = tensors([PROMPT, PROMPT], 3)
        given["request_output_len"] = np.array([[3], [5]], np.uint32)
        width = given["input_ids"].shape[1]
        assert asked(tiny, given)["sequence_length"].tolist() == [[width + 3], [width + 5]]

    def test_nothing_to_generate(self, tiny: Bloom) -> None:
        given = tensors([PROMPT], 0)
        answer = asked(tiny, given)
        assert answer["output_ids"].tolist() == [given["input_ids"].tolist()]

    def test_another_end(self, tiny: Bloom) -> None:
        end = TOKENIZER.encode(" service").ids[-1]
        answer = asked(tiny, tensors([PROMPT], 18, end_id=np.array([end], np.uint32)))
        assert texts(answer) == [[PROMPT + " it is a cloud-based service"]]

    def test_stop_words(self, tiny: Bloom) -> None:
        given = tensors([PROMPT], 18, stop_words_list=words(" never said", " a cloud-based"))
        assert texts(asked(tiny, given)) == [[PROMPT + " it is a cloud-based"]]

    def test_bad_words(self, tiny: Bloom) -> None:
        (text,) = texts(asked(tiny, tensors([PROMPT], 18, bad_words_list=words(" service", " is a"))))[0]
        assert " service" not in text
        assert " it is a" not in text

    def test_repetition_is_penalised(self, tiny: Bloom) -> None:
        given = tensors(["one two three four five six"], 10, repetition_penalty=np.array([50.0], np.float32))
        tokens = asked(tiny, given)["output_ids"][0, 0].tolist()
        assert len(set(tokens)) == len(tokens)


class TestSampling:
    def sampled(self, tiny: Bloom, **more: float) -> list[list[str]]:
        kinds = {"runtime_top_k": np.uint32, "random_seed": np.uint64}
        arrays = {name: np.array([value], kinds.get(name, np.float32)) for name, value in more.items()}
        return texts(asked(tiny, tensors([PROMPT], 12, **arrays)))

    def test_neither_k_nor_p_is_greedy(self, tiny: Bloom) -> None:
        greedy = self.sampled(tiny)
        assert self.sampled(tiny, runtime_top_k=0, runtime_top_p=0.0, random_seed=5) == greedy
        assert self.sampled(tiny, runtime_top_k=1, temperature=5.0) == greedy
        assert self.sampled(tiny, runtime_top_p=1e-6, temperature=5.0) == greedy

    @pytest.mark.parametrize("more", [{"runtime_top_k": 40}, {"runtime_top_p": 0.95}])
    def test_a_seed_repeats_and_seeds_differ(self, tiny: Bloom, more: dict[str, float]) -> None:
        drawn = [self.sampled(tiny, **more, temperature=4.0, random_seed=seed) for seed in (1, 1, 2)]
        assert drawn[0] == drawn[1] != drawn[2]

    def test_only_the_k_best_are_drawn(self, tiny: Bloom) -> None:
        ids = tensors([PROMPT], 1)["input_ids"]
        logits = tiny.logits(tiny.forward(ids, np.zeros(1, np.int64), tiny.new_cache(1, ids.shape[1])))[0, -1]
        best = set(np.argsort(-logits)[:3].tolist())
        drawn = set()
        for seed in range(60):
            more = {"runtime_top_k": np.array([3], np.uint32), "temperature": np.array([50.0], np.float32)}
            answer = asked(tiny, tensors([PROMPT], 1, random_seed=np.array([seed], np.uint64), **more))
            drawn.add(int(answer["output_ids"][0, 0, -1]))
        assert drawn == best

    def test_top_p_shrinks_and_comes_back(self, tiny: Bloom) -> None:
        more = {"runtime_top_p": 1.0, "temperature": 4.0, "random_seed": 1, "top_p_decay": 1e-9}
        decayed = asked(
            tiny,
            tensors(
                [PROMPT],
                12,
                **{k: np.array([v], np.uint64 if k == "random_seed" else np.float32) for k, v in more.items()},
            ),
        )
        first = int(decayed["output_ids"][0, 0, decayed["response_input_lengths"][0, 0]])
        follow_up = tensors([PROMPT], 11)
        follow_up["input_ids"] = np.append(follow_up["input_ids"], [[first]], axis=1).astype(np.uint32)
        follow_up["input_lengths"] = follow_up["input_lengths"] + 1
        assert np.array_equal(asked(tiny, follow_up)["output_ids"], decayed["output_ids"])


class TestBeamSearch:
    def test_the_first_beam_is_the_likeliest(self, tiny: Bloom) -> None:
        more = {"beam_width": np.array([4], np.uint32), "is_return_log_probs": np.array([True])}
        answer = asked(tiny, tensors([PROMPT], 18, **more))
        assert answer["output_ids"].shape[:2] == (1, 4)
        assert texts(answer)[0][0] == PROMPT + COMPLETION
        scores = answer["cum_log_probs"][0]
        assert np.all(scores[:-1] >= scores[1:])
        assert len(set(texts(answer)[0])) == 4

    def test_each_row_searches_for_itself(self, tiny: Bloom) -> None:
        prompts = [pair["prompt"] for pair in PAIRS]
        answer = asked(tiny, tensors(prompts, 30, beam_width=np.full(len(prompts), 3, np.uint32)))
        assert [beams[0] for beams in texts(answer)] == [pair["prompt"] + pair["completion"] for pair in PAIRS]

    def test_a_beams_score_is_that_of_its_tokens(self, tiny: Bloom) -> None:
        more = {"beam_width": np.array([3], np.uint32), "is_return_log_probs": np.array([True])}
        answer = asked(tiny, tensors([PROMPT], 6, **more))
        start = int(answer["response_input_lengths"][0, 0])
        for beam in range(3):
            length = int(answer["sequence_length"][0, beam])
            ids = answer["output_ids"][0, beam : beam + 1, :length].astype(np.int64)
            logits = tiny.logits(tiny.forward(ids, np.zeros(1, np.int64), tiny.new_cache(1, length)))[0].astype(
                np.float64
            )
            log_probs = logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))
            expected = sum(log_probs[at - 1, ids[0, at]] for at in range(start, length))
            assert answer["cum_log_probs"][0, beam] == pytest.approx(expected, abs=1e-3)
            assert answer["output_log_probs"][0, beam].sum() == pytest.approx(expected, abs=1e-3)


class TestABadRequestNamesItsTensor:
    @pytest.mark.parametrize(
        ("more", "message"),
        [
            ({"input_ids": np.array([[640]], np.uint32)}, "not in the vocabulary of 640"),
            ({"input_ids": np.zeros((1, 0), np.uint32)}, r"input_ids has shape \[1, 0\]"),
            ({"input_ids": np.zeros(4, np.uint32)}, r"input_ids has shape \[4\]"),
            ({"input_lengths": np.array([0], np.uint32)}, "input_lengths must be from 1 to 10"),
            ({"input_lengths": np.array([11], np.uint32)}, "input_lengths must be from 1 to 10"),
            ({"input_lengths": np.array([1, 1], np.uint32)}, "input_lengths has 2 values for 1 rows"),
            ({"request_output_len": np.array([[2**32 - 1]], np.uint32)}, "the CPU stand-in takes up to 2048"),
            ({"temperature": np.array([0.0], np.float32)}, "temperature is 0.0, and must be above 0"),
            ({"temperature": np.array([np.nan], np.float32)}, "temperature is not a finite number"),
            ({"repetition_penalty": np.array([-1.0], np.float32)}, "repetition_penalty is -1.0"),
            ({"beam_width": np.array([0], np.uint32)}, "beam_width 0 must be from 1"),
            ({"beam_width": np.array([641], np.uint32)}, "beam_width 641 must be from 1"),
            ({"request_prompt_lengths": np.array([1], np.uint32)}, "no prompt learning"),
            ({"stop_words_list": np.zeros((1, 3, 2), np.int32)}, r"stop_words_list has shape \[1, 3, 2\]"),
            ({"bad_words_list": np.array([[[1, 2], [3, -1]]], np.int32)}, r"bad_words_list: the words' ends \[3, -1\]"),
        ],
    )
    def test_one(self, tiny: Bloom, more: dict[str, NDArray[Any]], message: str) -> None:
        given = tensors([PROMPT], 4) | {"input_lengths": np.array([1], np.uint32)} | more
        with pytest.raises(UserError, match=message):
            asked(tiny, given)

    @pytest.mark.parametrize("name", ["input_ids", "input_lengths", "request_output_len"])
    def test_a_missing_one(self, tiny: Bloom, name: str) -> None:
        given = tensors([PROMPT], 4)
        del given[name]
        with pytest.raises(UserError, match=f"{name} is missing"):
            asked(tiny, given)

    def test_beams_that_differ(self, tiny: Bloom) -> None:
        with pytest.raises(UserError, match=r"beam_width must be the same in every row, and is \[1, 2\]"):
            asked(tiny, tensors([PROMPT, PROMPT], 4, beam_width=np.array([1, 2], np.uint32)))


class TritonError(Exception):
    """What Triton's module of this name has of it."""

    INVALID_ARG = 3

    def __init__(self, message: str, code: int | None = None) -> None:
        super().__init__(message)
        self.code = code


class TestTheTritonModel:
    """model.py as the repository has it, with a module in place of the one that Triton gives its Python backend."""

    @pytest.fixture
    def log(self) -> list[str]:
        return []

    @pytest.fixture
    def module(
        self, weights: Path, tmp_path: Path, log: list[str], monkeypatch: pytest.MonkeyPatch
    ) -> Iterator[ModuleType]:
        backend = SimpleNamespace(
            Logger=SimpleNamespace(log_info=log.append, log_warn=log.append),
            TritonModelException=RuntimeError,
            TritonError=TritonError,
            Tensor=lambda name, array: (name, array),
            InferenceResponse=lambda tensors=(), error=None: SimpleNamespace(tensors=dict(tensors), error=error),
        )
        monkeypatch.setitem(sys.modules, "triton_python_backend_utils", backend)
        monkeypatch.setattr(sys, "path", list(sys.path))
        paths = ["--weights-dir", str(weights / "tiny-bloom-fp16" / "2-gpu"), "--checkpoint-dir", str(TINY)]
        served = str(tmp_path / "r" / "fastertransformer" / "1")
        repository.main(
            [*paths, "--output-dir", str(tmp_path / "r"), "--backend", "python-cpu-stand-in", "--served-path", served]
        )
        spec = importlib.util.spec_from_file_location("served_model", f"{served}/model.py")
        assert spec is not None
        assert spec.loader is not None
        module = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(module)
        yield module

    def loaded(self, module: ModuleType, **changes: str) -> Any:
        parameters = {
            "model_checkpoint_path": str(Path(str(module.__file__)).parent),
            "tensor_para_size": "2",
        } | changes
        config = {"parameters": {name: {"string_value": value} for name, value in parameters.items()}}
        model = module.TritonPythonModel()
        model.initialize({"model_name": "fastertransformer", "model_config": json.dumps(config)})
        return model

    def request(self, given: dict[str, NDArray[Any]], *outputs: str) -> Any:
        def named(name: str, array: NDArray[Any]) -> Any:
            return SimpleNamespace(name=lambda: name, as_numpy=lambda: array)

        inputs = [named(name, array) for name, array in given.items()]
        return SimpleNamespace(inputs=lambda: inputs, requested_output_names=lambda: list(outputs))

    def test_answers_each_request_and_says_what_it_is(self, module: ModuleType, log: list[str]) -> None:
        model = self.loaded(module)
        assert "this is the CPU stand-in of FasterTransformer's backend" in log[0]
        good = self.request(tensors([PROMPT], 18), "output_ids", "sequence_length")
        bad = self.request(tensors([PROMPT], 18, temperature=np.zeros(1, np.float32)), "output_ids")
        first, second, third = model.execute([good, bad, good])
        assert first.tensors.keys() == {"output_ids", "sequence_length"}
        assert texts(first.tensors) == texts(third.tensors) == [[PROMPT + COMPLETION]]
        assert (str(second.error), second.error.code) == (
            "temperature is 0.0, and must be above 0.",
            TritonError.INVALID_ARG,
        )

    def test_does_not_load_a_short_file(self, module: ModuleType) -> None:
        short = Path(str(module.__file__)).parent / "model.layers.0.attention.dense.weight.0.bin"
        content = short.read_bytes()
        short.unlink()
        short.write_bytes(content[:-2])
        with pytest.raises(
            RuntimeError, match=r"CPU stand-in: .* is incomplete: .*dense\.weight\.0\.bin has \d+ bytes"
        ):
            self.loaded(module)

    def test_does_not_load_weights_for_other_ranks(self, module: ModuleType) -> None:
        with pytest.raises(RuntimeError, match=r"has tensor_para_size 4, and the weights in .* were split for 2"):
            self.loaded(module, tensor_para_size="4")

    def test_does_not_load_from_nowhere(self, module: ModuleType, tmp_path: Path) -> None:
        with pytest.raises(RuntimeError, match="is not a folder of FasterTransformer weights"):
            self.loaded(module, model_checkpoint_path=str(tmp_path))
