"""In-flight batching: requests join and leave the running batch between steps, as TensorRT-LLM's executor lets them.

A step reads at most `max_num_tokens` tokens: one for each growing beam, and prompts with what is left, in chunks where chunked
context is on. A request waits until its tokens fit into the paged KV cache, and is never thrown out of it again.
"""

from collections import deque
from collections.abc import Callable
from dataclasses import dataclass, replace

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import Limits
from engine_jobs.tensorrt_llm.cpu_stand_in.generation import Generation, Request
from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Llama, Piece


@dataclass(frozen=True, kw_only=True)
class Capacity:
    """The engine's limits as the server may lower them. `kv_cache_tokens`: of all requests together; None: no bound."""

    limits: Limits
    max_beam_width: int = 1
    kv_cache_tokens: int | None = None
    chunked_context: bool = False

    def admit(self, request: Request) -> Request:
        """The request with its answer cut to what the engine was built for. Raises UserError for one that can't be served,
        in the words of TensorRT-LLM's own checks where it has them."""
        limits, prompt = self.limits, len(request.prompt)
        if prompt < 1:
            raise UserError("the prompt has no tokens; send at least one (tokenizers put a <s> before a text).")
        if request.max_tokens < 1:
            raise UserError(f"request_output_len is {request.max_tokens}; ask for at least 1 token.")
        longest = min(limits.max_input_len, limits.max_seq_len - 1)
        if not self.chunked_context:
            longest = min(longest, limits.max_num_tokens)
        if prompt > longest:
            raise UserError(
                f"Prompt length ({prompt}) exceeds maximum input length ({longest}). Shorten the prompt, or build the engine "
                f"for longer ones (max_input_len {limits.max_input_len}, max_seq_len {limits.max_seq_len}, max_num_tokens "
                f"{limits.max_num_tokens}{'' if self.chunked_context else ' without chunked context'})."
            )
        if request.beams < 1:
            raise UserError(f"beam_width is {request.beams}; ask for 1 or more.")
        widest = min(self.max_beam_width, limits.max_num_tokens)
        if request.beams > widest:
            raise UserError(
                f"Requested beam width {request.beams} is larger than configured max beam width {widest} (the engine was "
                f"built for {limits.max_beam_width}, and max_beam_width in tensorrt_llm's config.pbtxt is "
                f"{self.max_beam_width})."
            )
        fitting = replace(request, max_tokens=min(request.max_tokens, limits.max_seq_len - prompt))
        if self.kv_cache_tokens is not None and self.needs(fitting) > self.kv_cache_tokens:
            raise UserError(
                f"prompt and answer may take {self.needs(fitting)} tokens of KV cache, and the server has "
                f"{self.kv_cache_tokens} (max_tokens_in_paged_kv_cache). Ask for fewer tokens or raise the limit."
            )
        return fitting

    def needs(self, request: Request) -> int:
        """Tokens of KV cache, at most."""
        return len(request.prompt) + request.beams * request.max_tokens


@dataclass(kw_only=True, eq=False)
class Job:
    """A request on its way. `changed` is told after each step that gave it tokens, and once with the error that ended it."""

    generation: Generation
    cancelled: Callable[[], bool]
    changed: Callable[[], None]
    failed: Callable[[Exception], None]


class Cancelled(Exception):
    """The caller does not wait any longer."""


class Batcher:
    """Holds the waiting and the running requests; `step` is called from one thread."""

    def __init__(self, model: Llama, capacity: Capacity) -> None:
        self._model = model
        self._capacity = capacity
        self._waiting: deque[Job] = deque()
        self._running: list[Job] = []

    @property
    def idle(self) -> bool:
        return not self._waiting and not self._running

    def add(self, job: Job) -> None:
        self._waiting.append(job)

    def step(self) -> None:
        """Lets what fits join, then every running request read or grow by one step, and ends those that are done."""
        self._drop_cancelled()
        self._let_in()
        planned = self._plan()
        if not planned:
            return
        hidden = iter(self._model.forward([piece for _, pieces in planned for piece in pieces]))
        for job, pieces in planned:
            job.generation.accept([next(hidden) for _ in pieces])
            job.changed()
        self._running = [job for job in self._running if not job.generation.done]

    def fail_all(self, error: Exception) -> None:
        """Ends everything with this error, so that nobody waits for ever."""
        for job in (*self._running, *self._waiting):
            job.failed(error)
        self._running, self._waiting = [], deque()

    def _drop_cancelled(self) -> None:
        for job in [job for job in (*self._running, *self._waiting) if job.cancelled()]:
            (self._running if job in self._running else self._waiting).remove(job)
            job.failed(Cancelled("the request was cancelled"))

    def _let_in(self) -> None:
        held = sum(self._capacity.needs(job.generation.request) for job in self._running)
        room = self._capacity.kv_cache_tokens
        while self._waiting and len(self._running) < self._capacity.limits.max_batch_size:
            held += self._capacity.needs(self._waiting[0].generation.request)
            if room is not None and held > room:
                return
            self._running.append(self._waiting.popleft())

    def _plan(self) -> list[tuple[Job, list[Piece]]]:
        """Growing requests first, then prompts in the order of their arrival."""
        left = self._capacity.limits.max_num_tokens
        planned = []
        for job in sorted(self._running, key=lambda job: job.generation.reading):
            wanted = job.generation.wanted
            if left < 1 or (wanted > left and not (self._capacity.chunked_context and job.generation.reading)):
                continue
            pieces = job.generation.pieces(left)
            left -= sum(len(piece.ids) for piece in pieces)
            planned.append((job, pieces))
        return planned
