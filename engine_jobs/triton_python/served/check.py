"""Whether the slots compute what the model itself computes: asked at every load, before anybody is served."""

from collections.abc import Sequence
from typing import Any, Final

import torch

from engine_jobs.triton_python.served.slots import SlotModel

STEPS: Final = 4
TOLERANCE: Final = {torch.float32: 1e-3, torch.float16: 3e-2, torch.bfloat16: 1e-1}
"""Of the logits' relative error ‖slots - model‖ / ‖model‖, means taken out. A wrong mask or position gives 0.1 to 1.4; another
order of summation, as a padded batch has, one to two orders of magnitude less than these."""


def largest_error(model: Any, slots: SlotModel, vocabulary: int) -> float:
    """The largest relative error of any row's logits, over a padded prefill, steps, a row that leaves and one that enters.

    The reference is the plain forward of each whole sequence alone, without cache, padding or mask.
    """
    prompts = [
        [(7 * place + 3 * row + 11) % vocabulary for place in range(length)] for row, length in enumerate((5, 19, 2))
    ]
    texts = [list(prompt) for prompt in prompts]
    worst = 0.0

    def compare(rows: Sequence[int], tokens: Sequence[int]) -> None:
        nonlocal worst
        for place, row in enumerate(rows):
            worst = max(worst, _relative_error(slots.logits[place], _reference(model, texts[row])))
        for row, token in zip(rows, tokens, strict=True):
            texts[row].append(token)

    def step(rows: Sequence[int]) -> None:
        nothing = [None] * len(rows)
        compare(rows, slots.decode([texts[row][-1] for row in rows], [len(texts[row]) - 1 for row in rows], nothing))

    count = min(len(prompts), slots.rows)
    # The last one enters later, beside rows that are on their way.
    first = max(count - 1, 1)
    compare(range(first), slots.prefill(0, prompts[:first], [None] * first))
    for _ in range(STEPS):
        step(range(first))
    rows = list(range(first))
    if count > first:
        compare([first], slots.prefill(first, [prompts[first]], [None]))
        rows.append(first)
        step(rows)
        # The first leaves: the last takes its row.
        slots.move(len(rows) - 1, 0, len(texts[rows[-1]]) - 1)
        rows[0] = rows.pop()
    step(rows)
    return worst


def _reference(model: Any, text: Sequence[int]) -> Any:
    device = next(model.parameters()).device
    with torch.inference_mode():
        return model(input_ids=torch.tensor([text], device=device), use_cache=False).logits[0, -1].float()


def _relative_error(found: Any, wanted: Any) -> float:
    found, wanted = found - found.mean(), wanted - wanted.mean()
    error = ((found - wanted).norm() / wanted.norm()).item()
    return error if error == error else float("inf")
