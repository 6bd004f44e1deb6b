"""In-flight batching over a backend that knows what each row has read: whoever mixes up rows, positions or steps gives wrong answers."""

import threading
from collections.abc import Callable, Sequence

import pytest

from engine_jobs.triton_python.served.engine import Answers, Engine
from engine_jobs.triton_python.served.generation import Draw, Failure, Generation, Step
from engine_jobs.triton_python.served.parameters import Defaults, Parameters, read_parameters
from engine_jobs.triton_python.served.schedulers import SlotScheduler, WholeBatchScheduler
from engine_jobs.triton_python.served.text import TextStream

END = 0
DEFAULTS = Defaults(max_tokens=20, max_output_length=None, max_length=64, exclude_input=True, vocabulary=23)


def following(text: Sequence[int]) -> int:
    """The toy model: the next token depends on every token and on its place."""
    return sum((place + 1) * token for place, token in enumerate(text)) * 7 % 23


def letters(ids: Sequence[int]) -> str:
    return "".join(chr(ord("a") + each) for each in ids)


def expected(prompt: Sequence[int], tokens: int) -> str:
    text = list(prompt)
    while len(text) - len(prompt) < tokens and (token := following(text)) != END:
        text.append(token)
    return letters(text[len(prompt) :])


class Begun:
    def __init__(self, tokens: list[int]) -> None:
        self._tokens = tokens

    def tokens(self) -> list[int]:
        return self._tokens


class Rows:
    """A SlotBackend whose rows are lists of tokens. `ahead`: whether it begins a step before the last one is read."""

    def __init__(self, rows: int = 4, *, ahead: bool = True, prefill_tokens: int = 1000) -> None:
        self.rows, self.prefill_tokens = rows, prefill_tokens
        self.read: list[list[int]] = [[] for _ in range(rows)]
        self.broken: Exception | None = None
        self.largest = 0
        self.prefills: list[int] = []
        self._ahead = ahead
        self._last: list[int] = []

    def prefill(self, first_row: int, prompts: Sequence[Sequence[int]], draws: Sequence[Draw | None]) -> list[int]:
        self.prefills.append(len(prompts))
        for row, prompt in enumerate(prompts, first_row):
            self.read[row] = list(prompt)
        return [following(prompt) for prompt in prompts]

    def start(self, tokens: Sequence[int], positions: Sequence[int], draws: Sequence[Draw | None]) -> Step:
        if self.broken:
            raise self.broken
        self.largest = max(self.largest, len(tokens))
        self._last = []
        for row, (token, position) in enumerate(zip(tokens, positions, strict=True)):
            # Whatever was beyond the position is of a row that has left.
            self.read[row] = [*self.read[row][:position], token]
            assert len(self.read[row]) == position + 1, "a position that the cache has not come to"
            self._last.append(following(self.read[row]))
        return Begun(self._last)

    def go_on(self) -> Step | None:
        if not self._ahead:
            return None
        positions = [len(self.read[row]) for row in range(len(self._last))]
        return self.start(self._last, positions, [None] * len(self._last))

    def move(self, source: int, target: int, length: int) -> None:
        assert target < source
        self.read[target] = self.read[source][:length]
        assert len(self.read[target]) == length


class Caller:
    def __init__(self) -> None:
        self.pieces: list[str] = []
        self.failure: tuple[str, Failure] | None = None
        self.gone = False
        self.done = threading.Event()

    def send(self, text: str, *, last: bool) -> None:
        assert not self.done.is_set(), "sent after the end"
        self.pieces.append(text)
        if last:
            self.done.set()

    def fail(self, message: str, why: Failure) -> None:
        assert not self.done.is_set(), "failed after the end"
        self.failure = (message, why)
        self.done.set()

    def is_cancelled(self) -> bool:
        return self.gone

    @property
    def text(self) -> str:
        return "".join(self.pieces)


def parameters(**tensors: object) -> Parameters:
    return read_parameters(
        {name: value if isinstance(value, list) else [value] for name, value in tensors.items()}, DEFAULTS
    )


def asked(prompt: Sequence[int], **tensors: object) -> tuple[Generation, Caller]:
    caller, wanted = Caller(), parameters(**tensors)
    return Generation(
        prompt=prompt,
        parameters=wanted,
        max_tokens=wanted.max_tokens or DEFAULTS.max_tokens,
        end_ids=frozenset({END}),
        text=TextStream(letters, prompt, wanted.stop_words),
        caller=caller,
        included="",
    ), caller


def scheduler(backend: Rows, pause: int = 0) -> SlotScheduler:
    answers = Answers(clock=iter(float(second) for second in range(10**6)).__next__)
    return SlotScheduler(backend, answers, decode_steps_between_prefills=pause)


def run(made: SlotScheduler | WholeBatchScheduler, more: Callable[[int], bool] = lambda _: False) -> None:
    """Steps until nothing is left; `more` is called before each, and says whether something may still come."""
    for step in range(1000):
        coming = more(step)
        if made.is_idle and not coming:
            return
        made.step()
    raise AssertionError("it does not come to an end")


PROMPTS = [[3, 1, 4], [1, 5], [9, 2, 6, 5, 3], [5], [8, 9, 7, 9], [3, 2, 3, 8, 4, 6], [2, 6, 4], [3, 3, 8, 3, 2]]


@pytest.mark.parametrize("ahead", [True, False])
@pytest.mark.parametrize("pause", [0, 2, 5])
@pytest.mark.parametrize("gap", [0, 1, 3])
def test_an_answer_is_the_same_whatever_else_is_in_the_batch(ahead: bool, pause: int, gap: int) -> None:
    backend = Rows(3, ahead=ahead)
    made = scheduler(backend, pause)
    lengths = [1 + 5 * number % 13 for number in range(len(PROMPTS))]
    questions = [
        asked(prompt, max_tokens=length, stream=number % 2 == 0)
        for number, (prompt, length) in enumerate(zip(PROMPTS, lengths, strict=True))
    ]
    left = list(questions)

    def arrive(step: int) -> bool:
        while left and (gap == 0 or step % gap == 0):
            made.add(left.pop(0)[0])
            if gap:
                break
        return bool(left)

    run(made, arrive)
    assert not left
    assert [caller.text for _, caller in questions] == [expected(*each) for each in zip(PROMPTS, lengths, strict=True)]
    assert backend.largest <= 3


def test_those_who_come_together_are_read_together_within_the_limits() -> None:
    backend = Rows(4, prefill_tokens=8)
    made = scheduler(backend)
    for prompt in ([1, 2, 3], [4, 5], [6, 7, 8, 9], [1] * 9):
        made.add(asked(prompt, max_tokens=1)[0])
    run(made)
    # Two of at most 3 tokens are 6; a third would make 3 x 4. The longest one is over the limit, so it goes alone.
    assert backend.prefills == [2, 1, 1]


def test_the_next_step_begins_before_the_last_is_read_only_where_rows_stay() -> None:
    ahead, waiting = Rows(1), Rows(1, ahead=False)
    for backend in (ahead, waiting):
        made = scheduler(backend)
        callers = [asked(prompt, max_tokens=6) for prompt in PROMPTS[:3]]
        for generation, _ in callers:
            made.add(generation)
        run(made)
        assert [caller.text for _, caller in callers] == [expected(prompt, 6) for prompt in PROMPTS[:3]]


def test_a_caller_who_goes_frees_the_row_for_one_who_waits() -> None:
    backend = Rows(1)
    made = scheduler(backend)
    (long, gone), (short, caller) = asked([1], max_tokens=10**6), asked([1, 5], max_tokens=3)
    long.end_ids = frozenset()
    made.add(long)
    made.add(short)

    def leave(step: int) -> bool:
        gone.gone = step >= 5
        return False

    run(made, leave)
    assert gone.failure == ("the request was cancelled", Failure.CANCELLED)
    assert caller.text == expected([1, 5], 3)
    assert made.counts.cancelled == 1


def test_a_failing_step_ends_its_own_requests_and_nobody_elses() -> None:
    backend = Rows(2)
    made = scheduler(backend)
    (first, broken), (second, caller) = asked([3], max_tokens=9), asked([1, 5], max_tokens=9)
    made.add(first)
    made.step()
    backend.broken = RuntimeError("no memory")
    with pytest.raises(RuntimeError):
        made.step()
        made.step()
    made.fail_all("the engine failed: no memory")
    backend.broken = None
    made.add(second)
    run(made)
    assert broken.failure == ("the engine failed: no memory", Failure.ENGINE)
    assert caller.text == expected([1, 5], 9)


def test_a_stop_word_ends_the_answer_before_it() -> None:
    whole = expected([3, 1, 4], 20)
    assert len(whole) > 6
    for stream in (True, False):
        made = scheduler(Rows())
        generation, caller = asked([3, 1, 4], max_tokens=20, stop_words=[whole[4:6], "zzz"], stream=stream)
        made.add(generation)
        run(made)
        assert caller.text == whole[: whole.index(whole[4:6])]
        assert caller.done.is_set()


def test_a_seed_gives_the_same_draws_and_fewer_than_min_tokens_ban_the_end() -> None:
    one, two, other = (asked([1], seed=seed)[0] for seed in (7, 7, 8))
    draws = [[generation.draw() for _ in range(5)] for generation in (one, two, other)]
    assert draws[0] == draws[1] != draws[2]
    generation, _ = asked([1], min_tokens=2, max_tokens=9)
    first = generation.draw()
    assert first is not None and first.banned == (END,) and first.uniform is None
    generation.accept(3)
    generation.accept(4)
    assert generation.draw() is None


def test_whole_batches_answer_as_slots_do() -> None:
    class Whole:
        rows = 3

        def generate(
            self,
            prompts: Sequence[Sequence[int]],
            draws: Callable[[], Sequence[Draw | None]],
            accept: Callable[[Sequence[int]], Sequence[bool]],
        ) -> None:
            texts = [list(prompt) for prompt in prompts]
            done = [False] * len(texts)
            while not all(done):
                assert len(draws()) == len(texts)
                tokens = [following(text) for text in texts]
                done = list(accept(tokens))
                for text, token in zip(texts, tokens, strict=True):
                    text.append(token)

    made = WholeBatchScheduler(Whole(), Answers())
    callers = [asked(prompt, max_tokens=1 + number) for number, prompt in enumerate(PROMPTS)]
    for generation, _ in callers:
        made.add(generation)
    run(made)
    assert [caller.text for _, caller in callers] == [
        expected(prompt, 1 + number) for number, prompt in enumerate(PROMPTS)
    ]


def test_the_threads_answer_many_callers_at_once_and_end() -> None:
    failures: list[Exception] = []
    engine = Engine(lambda outlet: SlotScheduler(Rows(3), outlet), failures.append)
    callers: list[tuple[Caller, str]] = []
    lock = threading.Lock()

    def client(number: int) -> None:
        for turn in range(10):
            prompt, length = PROMPTS[(number + turn) % len(PROMPTS)], 1 + (number * turn) % 9
            generation, caller = asked(prompt, max_tokens=length, stream=bool(turn % 2))
            engine.submit(generation)
            assert caller.done.wait(20)
            with lock:
                callers.append((caller, expected(prompt, length)))

    threads = [threading.Thread(target=client, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    engine.stop()
    assert not failures
    assert len(callers) == 80
    assert all(caller.text == wanted for caller, wanted in callers)


def test_unloading_answers_those_who_run_and_those_who_wait() -> None:
    engine = Engine(lambda outlet: SlotScheduler(Rows(1), outlet), lambda _: None)
    callers = []
    for _ in range(3):
        generation, caller = asked([1], max_tokens=10**6)
        generation.end_ids = frozenset()
        engine.submit(generation)
        callers.append(caller)
    engine.stop()
    assert all(caller.done.is_set() for caller in callers)
    assert {caller.failure for caller in callers} == {("the model is being unloaded", Failure.ENGINE)}
