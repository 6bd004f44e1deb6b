"""Mistakes between a checkpoint and its answer, each as something that a right model can be run with.

A tiny model is trained to end its answer at once when it is run with any of them, so that a mistake shows in the text.
"""

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch

Parameters = dict[str, torch.Tensor]
"""A model's weights and buffers by name."""


def _unchanged(parameters: Parameters) -> Parameters:
    return parameters


def _as_it_is(prompt: list[int]) -> list[int]:
    return prompt


@dataclass(frozen=True, kw_only=True)
class Mistake:
    """Another set of weights, a patch of the library's code for as long as it computes, or another prompt (token ids)."""

    parameters: Callable[[Parameters], Parameters] = _unchanged
    patch: Callable[[], AbstractContextManager[object]] = nullcontext
    prompt: Callable[[list[int]], list[int]] = _as_it_is


Mistakes = dict[str, Mistake]


def change(edit: Callable[..., torch.Tensor | tuple[torch.Tensor, ...]], *names: str) -> Mistake:
    """The mistake of reading `edit` of the tensors `names` in their place."""

    def changed(parameters: Parameters) -> Parameters:
        edited = edit(*(parameters[name] for name in names))
        tensors = edited if isinstance(edited, tuple) else (edited,)
        return {**parameters, **dict(zip(names, tensors, strict=True))}

    return Mistake(parameters=changed)


def swapped(first: torch.Tensor, second: torch.Tensor) -> tuple[torch.Tensor, ...]:
    """Two tensors of the same number of elements, each taken for the other."""
    return second.reshape(first.shape), first.reshape(second.shape)


def misread_weight(name: str, parameter: torch.Tensor, tables: tuple[str, ...]) -> Mistakes:
    """A bias or a norm's weight left out, a matrix not transposed. Those with a part of `tables` in their name are lookups."""
    if name.endswith("bias"):
        return {f"without {name}": change(torch.zeros_like, name)}
    if parameter.dim() == 1:
        return {f"without {name}": change(torch.ones_like, name)}
    if any(table in name for table in tables):
        return {}
    return {f"not transposed: {name}": change(lambda tensor: tensor.T.reshape(tensor.shape), name)}


@contextmanager
def attribute(owners: list[Any], name: str, value: object) -> Iterator[None]:
    """Has the attribute `name` of all `owners` be `value` for a while."""
    right = [getattr(owner, name) for owner in owners]
    for owner in owners:
        setattr(owner, name, value)
    try:
        yield
    finally:
        for owner, old in zip(owners, right, strict=True):
            setattr(owner, name, old)
