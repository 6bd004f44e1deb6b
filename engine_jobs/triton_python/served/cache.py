"""A key-value cache of fixed size whose rows belong to independent sequences, each with a length of its own."""

from collections.abc import Sequence
from typing import Any

import torch
from transformers.cache_utils import Cache


class SlotCache(Cache):  # type: ignore[misc]
    """Per layer two tensors [rows, heads, length, head size]. What `update` does is set before each forward:

    `read_prompts(rows)`: the forward's row b is row `rows[b]` here, it starts at position 0, and attends to itself alone;
    `read_tokens(positions, length)`: row b is row b, its one token stands at `positions[b]`, and it is shown the first
    `length` positions, of which the attention mask leaves those that are its own.
    Only indexed copies with indices on the device, so that a CUDA graph can hold them.
    """

    def __init__(self, shapes: Sequence[tuple[int, int, int]], rows: int, length: int, dtype: Any, device: Any) -> None:
        """`shapes`: (heads, key head size, value head size) of each layer."""
        super().__init__(layers=[])
        self.keys = [torch.zeros((rows, heads, length, size), dtype=dtype, device=device) for heads, size, _ in shapes]
        self.values = [
            torch.zeros((rows, heads, length, size), dtype=dtype, device=device) for heads, _, size in shapes
        ]
        self._all_rows = torch.arange(rows, device=device)
        self._rows: Any = None
        self._positions: Any = None
        self._length = 0
        self._write_token = _token_writer(self.keys, self.values)

    def read_prompts(self, rows: Any) -> None:
        self._rows, self._positions = rows, None

    def read_tokens(self, positions: Any, length: int) -> None:
        self._rows, self._positions, self._length = self._all_rows[: len(positions)], positions, length

    def update(self, key_states: Any, value_states: Any, layer_idx: int, *_: Any, **__: Any) -> tuple[Any, Any]:
        """Keys and values [batch, heads, tokens, head size] of the forward's tokens -> those to attend to."""
        keys, values = self.keys[layer_idx], self.values[layer_idx]
        if self._positions is None:
            tokens = key_states.shape[2]
            keys[:, :, :tokens].index_copy_(0, self._rows, key_states)
            values[:, :, :tokens].index_copy_(0, self._rows, value_states)
            return key_states, value_states
        batch = len(self._rows)
        if self._write_token is not None:
            self._write_token(keys, values, key_states, value_states, self._positions)
            return keys[:batch, :, : self._length], values[:batch, :, : self._length]
        # Two index tensors around a slice: the rows come first in the result, [batch, heads, head size].
        keys[self._rows, :, self._positions] = key_states[:, :, 0]
        values[self._rows, :, self._positions] = value_states[:, :, 0]
        return keys[:batch, :, : self._length], values[:batch, :, : self._length]

    def move(self, source: int, target: int, length: int) -> None:
        """Row `target` becomes the first `length` positions of row `source`."""
        tensors = [*self.keys, *self.values]
        torch._foreach_copy_(
            [each[target, :, :length] for each in tensors], [each[source, :, :length] for each in tensors]
        )

    def get_seq_length(self, *_: Any, **__: Any) -> int:
        """Zero: positions are always given with the tokens."""
        return 0

    def get_mask_sizes(self, query_length: int, *_: Any, **__: Any) -> tuple[int, int]:
        return (query_length if self._positions is None else self._length), 0

    def get_max_length(self, *_: Any, **__: Any) -> int:
        return int(self.keys[0].shape[2])

    def __len__(self) -> int:
        return len(self.keys)


def _token_writer(keys: Sequence[Any], values: Sequence[Any]) -> Any:
    """The kernel that writes a token's key and value at once; None where there is no GPU, or no compiler for it."""
    if keys[0].device.type != "cuda":
        return None
    try:
        from engine_jobs.triton_python.served.kernels import write_token

        key, value = (torch.zeros_like(each[0][:1, :, :1]) for each in (keys, values))
        write_token(keys[0], values[0], key, value, torch.zeros(1, dtype=torch.long, device=keys[0].device))
        torch.cuda.synchronize()
    except Exception:
        return None
    return write_token
