"""The thread that runs the batcher, and what a model's parameters make of it."""

import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from engine_jobs.errors import UserError
from engine_jobs.tensorrt_llm.cpu_stand_in.batcher import Batcher, Capacity, Job
from engine_jobs.tensorrt_llm.cpu_stand_in.engine import Engine, read_engine
from engine_jobs.tensorrt_llm.cpu_stand_in.llama import Llama
from engine_jobs.tensorrt_llm.repository_models.parameters import flag


@dataclass(frozen=True, kw_only=True)
class Options:
    """What the parameters of tensorrt_llm's config.pbtxt say, with the backend's defaults for those that say nothing."""

    engine_dir: Path
    max_beam_width: int
    kv_cache_tokens: int | None
    attention_window: int | None
    chunked_context: bool
    exclude_input: bool
    cancellation_check_seconds: float

    @staticmethod
    def read(parameters: Mapping[str, str]) -> "Options":
        """Raises UserError that names the parameter."""
        if "gpt_model_path" not in parameters:
            raise UserError("config.pbtxt has no parameter gpt_model_path: name the engine's folder.")

        def number(name: str) -> int | None:
            text = parameters.get(name, "").split(",")[0].strip()
            if not text:
                return None
            if not text.isdigit() or int(text) < 1:
                raise UserError(f"parameter {name} is {parameters[name]!r}: write a whole number above 0.")
            return int(text)

        return Options(
            engine_dir=Path(parameters["gpt_model_path"]),
            max_beam_width=number("max_beam_width") or 1,
            kv_cache_tokens=number("max_tokens_in_paged_kv_cache"),
            attention_window=number("max_attention_window_size"),
            chunked_context=flag(parameters, "enable_chunked_context", False),
            exclude_input=flag(parameters, "exclude_input_in_output", False),
            cancellation_check_seconds=(number("cancellation_check_period_ms") or 100) / 1000,
        )


def capacity(engine: Engine, options: Options) -> Capacity:
    """Raises UserError for more beams than the engine was built for."""
    if options.max_beam_width > engine.limits.max_beam_width:
        raise UserError(
            f"max_beam_width is {options.max_beam_width} in config.pbtxt, and the engine in {options.engine_dir} was built for "
            f"{engine.limits.max_beam_width}. Lower the one, or build the engine with a larger --max_beam_width."
        )
    return Capacity(
        limits=engine.limits,
        max_beam_width=options.max_beam_width,
        kv_cache_tokens=options.kv_cache_tokens,
        chunked_context=options.chunked_context,
    )


class Server:
    """An engine that answers jobs from a thread of its own, until `close`."""

    def __init__(self, options: Options, version: str | None, report: Callable[[Exception], None]) -> None:
        """Reads the engine. `version`: the TensorRT-LLM that the image has; `report` is told of an error in a step. Raises
        UserError."""
        engine = read_engine(options.engine_dir, version)
        self.capacity = capacity(engine, options)
        self.engine = engine
        self.model = Llama(engine, options.attention_window)
        self._batcher = Batcher(self.model, self.capacity)
        self._report = report
        self._inbox: list[Job] = []
        self._changed = threading.Condition()
        self._closed = False
        self._thread = threading.Thread(target=self._run, name="tensorrt-llm-stand-in", daemon=True)
        self._thread.start()

    def add(self, jobs: list[Job]) -> None:
        with self._changed:
            self._inbox += jobs
            self._changed.notify()

    def close(self) -> None:
        """Ends what runs with an error, and the thread."""
        with self._changed:
            self._closed = True
            self._changed.notify()
        self._thread.join()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._inbox or self._closed) and self._batcher.idle:
                    self._changed.wait()
                jobs, self._inbox = self._inbox, []
            for job in jobs:
                self._batcher.add(job)
            if self._closed:
                self._batcher.fail_all(UserError("the server is being stopped."))
                return
            try:
                self._batcher.step()
            except Exception as error:  # A step that fails must not leave its callers waiting, nor end the thread.
                self._report(error)
                self._batcher.fail_all(error)


def every(seconds: float, ask: Callable[[], bool]) -> Callable[[], bool]:
    """`ask`, at most that often, and no longer once it has said yes: asking goes to another process."""
    last, answer = time.monotonic(), False

    def asked() -> bool:
        nonlocal last, answer
        if not answer and time.monotonic() - last >= seconds:
            last, answer = time.monotonic(), ask()
        return answer

    return asked
