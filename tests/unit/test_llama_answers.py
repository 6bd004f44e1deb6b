"""The CPU stand-in of `tensorrt_llm` answers word for word: alone, batched in flight, in chunks, by beams, sampled."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.batcher import Batcher, Cancelled, Capacity, Job
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import read_engine
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Generation, Request
from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Llama
from engine_jobs.tensorrt_llm.cpu_stand_in.sampling import Sampling
from tests.unit.llama_engines import (
    COMPLETIONS,
    END,
    JORDAN,
    LIMITS,
    ML,
    request,
    sentence,
    serving_engine,
    token,
)


@pytest.fixture(scope="module")
def engine(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return serving_engine(tmp_path_factory.mktemp("llama"))


@pytest.fixture(scope="module")
def model(engine: Path) -> Llama:
    return Llama(read_engine(engine))


class Asked:
    """Requests given to a batcher, with what became of each."""

    def __init__(self, model: Llama, capacity: Capacity, requests: list[Request]) -> None:
        self.batcher = Batcher(model, capacity)
        self.generations = [Generation(model, capacity.admit(each)) for each in requests]
        self.failures: dict[int, Exception] = {}
        self.cancelled: set[int] = set()
        self.most = 0
        for number, generation in enumerate(self.generations):
            self.batcher.add(
                Job(
                    generation=generation,
                    cancelled=lambda number=number: number in self.cancelled,  # type: ignore[misc]
                    changed=lambda: None,
                    failed=lambda error, number=number: self.failures.update({number: error}),  # type: ignore[misc]
                )
            )

    def run(self, steps: int = 10_000) -> "Asked":
        while steps and not self.batcher.idle:
            self.batcher.step()
            growing = [each for each in self.generations if each.beams[0].cache.length and not each.done]
            self.most = max(self.most, len(growing))
            steps -= 1
        return self


def answered(model: Llama, *requests: Request, capacity: Capacity | None = None) -> list[Generation]:
    return Asked(model, capacity or Capacity(limits=LIMITS, max_beam_width=3), list(requests)).run().generations


class TestAnswers:
    def test_are_the_known_sentences_alone_and_all_at_once(self, model: Llama) -> None:
        together = answered(model, *(request(known.prompt) for known in COMPLETIONS))
        for known, generation in zip(COMPLETIONS, together, strict=True):
            assert sentence(generation) == known.sentence
            assert sentence(answered(model, request(known.prompt))[0]) == known.sentence
            assert END not in generation.beams[0].tokens

    def test_are_the_same_with_prompts_read_in_chunks(self, model: Llama) -> None:
        limits = replace(LIMITS, max_num_tokens=5)
        chunked = Capacity(limits=limits, chunked_context=True)
        for known, generation in zip(
            COMPLETIONS, answered(model, *(request(k.prompt) for k in COMPLETIONS), capacity=chunked), strict=True
        ):
            assert sentence(generation) == known.sentence

    def test_end_with_the_tokens_asked_for_or_a_stop_word(self, model: Llama) -> None:
        short, stopped = answered(
            model,
            request(ML.prompt, 4),
            request(ML.prompt, sampling=Sampling(stop_words=((token("▁to"), token("▁learn")),))),
        )
        assert sentence(short) == "What is ML?\nML is" and len(short.beams[0].tokens) == 4
        assert sentence(stopped) == "What is ML?\nML is a branch of AI that allows computers to learn"

    def test_never_have_a_bad_word_nor_end_before_their_least_length(self, model: Llama) -> None:
        word = (token("▁Michael"), token("▁Jordan"))
        (without, long) = answered(
            model,
            request(JORDAN.prompt, 5, sampling=Sampling(bad_words=(word,))),
            request(JORDAN.prompt, 40, sampling=Sampling(min_length=30)),
        )
        assert "Many consider Michael" in sentence(without) and "Jordan" not in sentence(without)
        assert len(long.beams[0].tokens) >= 29 and sentence(long).startswith(JORDAN.sentence)

    def test_by_beams_are_the_likeliest_first(self, model: Llama) -> None:
        (generation,) = answered(model, request(JORDAN.prompt, beams=3))
        assert sentence(generation) == JORDAN.sentence
        scores = [beam.score for beam in generation.beams]
        assert scores == sorted(scores, reverse=True) and len({sentence(generation, beam) for beam in range(3)}) == 3


class TestSampling:
    LOGITS = np.log(np.array([0.5, 0.3, 0.15, 0.05], np.float32))

    def drawn(self, sampling: Sampling, count: int = 4000) -> NDArray[np.float64]:
        """How often each token is chosen."""
        random = np.random.default_rng(1)
        scores = sampling.adjusted(self.LOGITS, (), (), -1)
        return np.bincount([sampling.choose(scores, random) for _ in range(count)], minlength=4) / count

    @pytest.mark.parametrize(
        ("sampling", "shares"),
        [
            (Sampling(), (1, 0, 0, 0)),
            (Sampling(temperature=0.0, top_k=4), (1, 0, 0, 0)),
            (Sampling(top_k=4), (0.5, 0.3, 0.15, 0.05)),
            (Sampling(top_k=2), (0.625, 0.375, 0, 0)),
            (Sampling(top_p=0.9), (0.526, 0.316, 0.158, 0)),
            (Sampling(top_k=3, top_p=0.5), (1, 0, 0, 0)),
            (Sampling(top_k=4, temperature=0.5), (0.685, 0.247, 0.062, 0.007)),
            (Sampling(top_k=4, bad_words=((0,),)), (0, 0.6, 0.3, 0.1)),
        ],
    )
    def test_draws_from_the_distribution_that_is_asked_for(self, sampling: Sampling, shares: tuple[float, ...]) -> None:
        assert np.abs(self.drawn(sampling) - np.array(shares)).max() < 0.03

    def test_is_repeated_by_its_seed(self, model: Llama) -> None:
        def texts(seed: int) -> list[str]:
            sampling = Sampling(temperature=4.0, top_k=100, random_seed=seed)
            return [sentence(each) for each in answered(model, *[request("I am going", 12, sampling=sampling)] * 2)]

        one, again = texts(7)
        assert one == again and len({one, *texts(8), *texts(9)}) == 3

    def test_penalties_push_what_is_there_down(self) -> None:
        logits = np.array([2.0, -1.0, 1.0], np.float32)
        repeated = Sampling(repetition_penalty=2.0).adjusted(logits, (0,), (1,), -1)
        assert repeated.tolist() == [1.0, -2.0, 1.0]
        counted = Sampling(presence_penalty=0.5, frequency_penalty=0.25).adjusted(logits, (2,), (0, 0), -1)
        assert counted.tolist() == [1.0, -1.0, 1.0]


class TestBatcher:
    def test_takes_no_more_at_once_than_the_engine(self, model: Llama) -> None:
        many = [request(known.prompt) for known in COMPLETIONS]
        for most in (1, 3):
            asked = Asked(model, Capacity(limits=replace(LIMITS, max_batch_size=most)), many).run()
            assert asked.most == most
            assert [sentence(each) for each in asked.generations] == [known.sentence for known in COMPLETIONS]

    def test_has_requests_wait_for_room_in_the_kv_cache(self, model: Llama) -> None:
        asked = Asked(model, Capacity(limits=LIMITS, kv_cache_tokens=70), [request("I am going", 20)] * 6).run()
        assert asked.most == 2 and not asked.failures  # 24 tokens each

    def test_leaves_what_was_cancelled_and_goes_on_with_the_rest(self, model: Llama) -> None:
        asked = Asked(model, Capacity(limits=LIMITS), [request(ML.prompt), request(JORDAN.prompt)]).run(5)
        asked.cancelled.add(0)
        asked.run()
        assert isinstance(asked.failures[0], Cancelled) and list(asked.failures) == [0]
        assert len(asked.generations[0].beams[0].tokens) == 5
        assert sentence(asked.generations[1]) == JORDAN.sentence

    @pytest.mark.parametrize(
        ("changes", "capacity", "reason"),
        [
            ({"prompt": ()}, {}, "the prompt has no tokens"),
            ({"prompt": (1,) * 65}, {}, r"Prompt length \(65\) exceeds maximum input length \(64\)"),
            ({"max_tokens": 0}, {}, "request_output_len is 0"),
            ({"beams": 2}, {}, "Requested beam width 2 is larger than configured max beam width 1"),
            ({"beams": 0}, {}, "beam_width is 0"),
            ({"max_tokens": 50}, {"kv_cache_tokens": 40}, r"may take 54 tokens of KV cache, and the server has\s+40"),
        ],
    )
    def test_refuses_what_the_engine_was_not_built_for(
        self, changes: dict[str, Any], capacity: dict[str, Any], reason: str
    ) -> None:
        with pytest.raises(UserError, match=reason):
            Capacity(limits=LIMITS, **capacity).admit(replace(request("I am going"), **changes))

    def test_takes_a_long_prompt_in_chunks_only(self) -> None:
        limits = replace(LIMITS, max_num_tokens=16)
        long = replace(request("I"), prompt=(1,) * 40)
        assert Capacity(limits=limits, chunked_context=True).admit(long).max_tokens == 60
        with pytest.raises(UserError, match="max_num_tokens 16 without chunked context"):
            Capacity(limits=limits).admit(long)

    def test_cuts_an_answer_to_the_longest_sequence(self) -> None:
        assert Capacity(limits=LIMITS).admit(request("I am going", 1000)).max_tokens == 124
