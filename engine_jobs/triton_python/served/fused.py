"""Fewer and larger kernels for the layers that many architectures share. Each change is compared with what it replaces before it
is kept, and all of them are taken back if the whole model then no longer computes the same (`check.py`)."""

import sys
from collections.abc import Callable
from functools import partial
from typing import Any, Final

import torch
from torch.nn import functional

NORM_TOLERANCE: Final = {torch.float32: 1e-5, torch.float16: 4e-3, torch.bfloat16: 3e-2}
MERGED: Final = (("q_proj", "k_proj", "v_proj"), ("gate_proj", "up_proj"))
"""Linear layers that read the same input: one multiplication in place of two or three."""


class Fusions:
    """What has been changed in a model, with the way back. `summary` says it in words."""

    def __init__(self, model: Any) -> None:
        self._undo: list[Callable[[], None]] = []
        self._counts: dict[str, int] = {}
        with torch.inference_mode():
            for module in list(model.modules()):
                self._norm(module)
                for names in MERGED:
                    self._merge(module, names)
            self._rotary(model)

    @property
    def summary(self) -> str:
        return ", ".join(f"{count} {what}" for what, count in self._counts.items()) or "nothing"

    def take_back(self) -> None:
        for undo in reversed(self._undo):
            undo()
        self._undo.clear()

    def _norm(self, module: Any) -> None:
        weight = getattr(module, "weight", None)
        epsilon = getattr(module, "variance_epsilon", getattr(module, "eps", None))
        if not type(module).__name__.endswith("RMSNorm") or weight is None or weight.dim() != 1 or epsilon is None:
            return
        if "forward" in vars(module):
            return
        tried = torch.randn((3, len(weight)), dtype=weight.dtype, device=weight.device)
        wanted, found = module(tried), functional.rms_norm(tried, weight.shape, weight, epsilon)
        if found.dtype == wanted.dtype and _close(found, wanted, NORM_TOLERANCE.get(weight.dtype, 1e-5)):
            self._replace(module, lambda states: functional.rms_norm(states, weight.shape, weight, epsilon), "norms")

    def _merge(self, module: Any, names: tuple[str, ...]) -> None:
        layers: list[Any] = [getattr(module, name, None) for name in names]
        if any(type(layer) is not torch.nn.Linear or "forward" in vars(layer) for layer in layers):
            return
        first = layers[0]
        if any(
            layer.in_features != first.in_features or (layer.bias is None) != (first.bias is None) for layer in layers
        ):
            return
        _Merged(layers)
        for layer in layers:
            self._undo.append(partial(_forget, layer))
        self._counts["merged projections"] = self._counts.get("merged projections", 0) + 1

    def _rotary(self, model: Any) -> None:
        """The function that the model's own file calls; its file is this process's alone, for it serves one model."""
        try:
            from engine_jobs.triton_python.served import kernels
        except ImportError:
            return
        file = sys.modules[type(model).__module__]
        original = getattr(file, "apply_rotary_pos_emb", None)
        device = next(model.parameters()).device
        if original is None or device.type != "cuda":
            return

        def fused(q: Any, k: Any, cos: Any, sin: Any, *rest: Any, **named: Any) -> Any:
            if rest or named or not kernels.can_rotate(q, k, cos, sin):
                return original(q, k, cos, sin, *rest, **named)
            return kernels.rotate(q, k, cos, sin)

        dtype = next(model.parameters()).dtype
        q, k = (torch.randn((2, 3, heads, 64), dtype=dtype, device=device).transpose(1, 2) for heads in (4, 2))
        cos, sin = (torch.randn((2, 3, 64), dtype=dtype, device=device) for _ in range(2))
        try:
            pairs = list(zip(fused(q, k, cos, sin), original(q, k, cos, sin), strict=True))
        except Exception:
            # No compiler for the kernel, or another signature: the original does it.
            return
        if all(_close(found, wanted, NORM_TOLERANCE.get(dtype, 1e-5)) for found, wanted in pairs):
            setattr(file, "apply_rotary_pos_emb", fused)  # noqa: B010
            self._undo.append(lambda: setattr(file, "apply_rotary_pos_emb", original))
            self._counts["rotary kernel"] = 1

    def _replace(self, module: Any, forward: Callable[..., Any], what: str) -> None:
        module.forward = forward
        self._undo.append(partial(_forget, module))
        self._counts[what] = self._counts.get(what, 0) + 1


def _forget(module: Any) -> None:
    """Its class's forward again."""
    module.__dict__.pop("forward", None)


class _Merged:
    """Several linear layers of one input. The first one that is asked computes for all; the others take their part."""

    def __init__(self, layers: list[Any]) -> None:
        self._weight = torch.cat([layer.weight for layer in layers])
        self._bias = None if layers[0].bias is None else torch.cat([layer.bias for layer in layers])
        self._sizes = [layer.out_features for layer in layers]
        self._input: Any = None
        self._parts: list[Any] = []
        for place, (layer, weight) in enumerate(zip(layers, self._weight.split(self._sizes), strict=True)):
            # The layer's own weight becomes a part of the merged one, so that memory holds it once.
            layer.weight = torch.nn.Parameter(weight, requires_grad=False)
            layer.forward = partial(self._part, place)

    def _part(self, place: int, states: Any) -> Any:
        if self._input is not states or self._parts[place] is None:
            self._input = states
            self._parts = list(functional.linear(states, self._weight, self._bias).split(self._sizes, -1))
        part, self._parts[place] = self._parts[place], None
        if all(each is None for each in self._parts):
            self._input = None
        return part


def _close(found: Any, wanted: Any, tolerance: float) -> bool:
    return bool(found.shape == wanted.shape) and bool((found - wanted).abs().max() <= tolerance * wanted.abs().max())
