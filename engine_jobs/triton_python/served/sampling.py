"""The next token of each row of a batch, every row by its own parameters, on the device where the logits are."""

from collections.abc import Sequence
from typing import Any

import torch

from engine_jobs.triton_python.served.generation import Draw


def choose(logits: Any, draws: Sequence[Draw | None]) -> Any:
    """Logits FP32 [rows, vocabulary] -> tokens INT64 [rows]. A row whose draw is None takes the likeliest."""
    logits = logits.clone()
    for row, draw in enumerate(draws):
        if draw is None:
            continue
        if draw.history:
            seen = torch.tensor(sorted(set(draw.history)), device=logits.device)
            values = logits[row, seen]
            # As in transformers: a token that was there becomes less likely, whatever its logit's sign.
            logits[row, seen] = torch.where(
                values < 0, values * draw.repetition_penalty, values / draw.repetition_penalty
            )
        if draw.banned:
            logits[row, list(draw.banned)] = -torch.inf
    tokens = logits.argmax(-1)
    drawn = [(row, draw) for row, draw in enumerate(draws) if draw is not None and draw.uniform is not None]
    if drawn:
        rows = torch.tensor([row for row, _ in drawn], device=logits.device)
        tokens[rows] = _draw(logits[rows], [draw for _, draw in drawn])
    return tokens


def _draw(logits: Any, draws: Sequence[Draw]) -> Any:
    """By inversion: the tokens in order of their likelihood, cut by top k and top p, and the one in which `uniform` falls."""
    numbers = torch.tensor(
        [(each.temperature, each.top_k or logits.shape[1], each.top_p, each.uniform) for each in draws],
        dtype=torch.float64,
    ).to(logits.device)
    temperature, top_k, top_p, uniform = (column.unsqueeze(1) for column in numbers.unbind(1))
    ordered, ids = (logits / temperature.float()).sort(dim=-1, descending=True, stable=True)
    ranks = torch.arange(logits.shape[1], device=logits.device)
    likely = ordered.masked_fill(ranks >= top_k, -torch.inf).softmax(-1, dtype=torch.float64)
    summed = likely.cumsum(-1)
    # The token that crosses top p is still in; the first always is.
    likely = likely.masked_fill(summed - likely >= top_p, 0.0)
    summed = likely.cumsum(-1)
    place = torch.searchsorted(summed, uniform * summed[:, -1:], right=True)
    # Not past the last token that is left, where rounding puts `uniform` on the very end.
    place = torch.minimum(place, (likely > 0).sum(-1, keepdim=True) - 1)
    return ids.gather(1, place).squeeze(1)
