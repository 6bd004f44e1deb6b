"""The way that serves every architecture: transformers' own `generate`, one padded batch after another."""

from collections.abc import Callable, Sequence
from typing import Any

import torch
from transformers import LogitsProcessorList, StoppingCriteriaList

from engine_jobs.triton_python.served import sampling
from engine_jobs.triton_python.served.generation import Draw


class WholeBatchModel:
    """A `WholeBatchBackend` (generation.py). Prompts are padded on the left, as `generate` expects of a decoder."""

    def __init__(self, model: Any, *, rows: int, max_length: int, pad_id: int) -> None:
        self.rows = rows
        self._model = model
        self._max_length = max_length
        self._pad_id = pad_id
        self._device = next(model.parameters()).device

    def generate(
        self,
        prompts: Sequence[Sequence[int]],
        draws: Callable[[], Sequence[Draw | None]],
        accept: Callable[[Sequence[int]], Sequence[bool]],
    ) -> None:
        longest = max(map(len, prompts))
        ids = [[self._pad_id] * (longest - len(prompt)) + list(prompt) for prompt in prompts]
        mask = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]

        def choose(_: Any, logits: Any) -> Any:
            """All but the chosen token of each row ruled out, so that generate's own choice is ours."""
            tokens = sampling.choose(logits.float(), draws())
            return torch.full_like(logits, -torch.inf).scatter_(1, tokens[:, None], 0.0)

        def stop(so_far: Any, *_: Any, **__: Any) -> Any:
            return torch.tensor(accept(so_far[:, -1].tolist()), device=so_far.device)

        with torch.inference_mode():
            self._model.generate(
                input_ids=torch.tensor(ids, device=self._device),
                attention_mask=torch.tensor(mask, device=self._device),
                # The scheduler ends every row itself; this only keeps `generate` from going on for ever.
                max_length=self._max_length + longest,
                do_sample=False,
                num_beams=1,
                use_cache=True,
                eos_token_id=[],
                pad_token_id=self._pad_id,
                logits_processor=LogitsProcessorList([choose]),
                stopping_criteria=StoppingCriteriaList([stop]),
            )
