"""A computation captured as a CUDA graph, and a decode step that has begun."""

from collections.abc import Callable, Sequence
from typing import Any

import torch


class Begun:
    """A `Step` (generation.py): its tokens, or where they will be once `event` has passed."""

    def __init__(self, tokens: Any, event: Any = None) -> None:
        self._tokens = tokens
        self._event = event

    def tokens(self) -> list[int]:
        if self._event is None:
            return list(self._tokens)
        self._event.synchronize()
        found: list[int] = self._tokens.tolist()
        return found


class Graph:
    """One captured computation, its inputs and outputs at fixed addresses."""

    def __init__(self, compute: Callable[..., Any], shapes: Sequence[tuple[int, ...]], device: Any, pool: Any) -> None:
        self.batch = shapes[-1][0]
        sizes = [torch.Size(shape).numel() for shape in shapes]
        # One buffer, so that one copy brings all inputs.
        self._host = torch.zeros(sum(sizes), dtype=torch.long, pin_memory=True)
        self._buffer = torch.zeros(sum(sizes), dtype=torch.long, device=device)
        inputs = [part.view(shape) for part, shape in zip(self._buffer.split(sizes), shapes, strict=True)]
        self._graph = torch.cuda.CUDAGraph()
        with torch.inference_mode():
            stream = torch.cuda.Stream()
            stream.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(stream):
                compute(*inputs)
            torch.cuda.current_stream().wait_stream(stream)
            with torch.cuda.graph(self._graph, pool=pool, capture_error_mode="thread_local"):
                self._outputs = compute(*inputs)

    @property
    def tokens(self) -> Any:
        return self._outputs[1]

    def replay(self, inputs: Sequence[Any] | None = None) -> Any:
        """With inputs, or with what the last replay left there."""
        if inputs is None:
            self._graph.replay()
            return self._outputs
        flat: list[int] = []
        for each in inputs:
            flat.extend(each if not each or not isinstance(each[0], list) else (value for row in each for value in row))
        self._host.copy_(torch.tensor(flat))
        self._buffer.copy_(self._host, non_blocking=True)
        self._graph.replay()
        return self._outputs
