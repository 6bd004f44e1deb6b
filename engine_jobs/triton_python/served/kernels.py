"""Two small steps of every layer as one GPU kernel each, in Triton's language (the compiler; no relation to the server).

A decode step is bound by the number of its kernels as much as by the weights that it reads: these two replace about fourteen.
"""

from typing import Any

import torch
import triton  # type: ignore[import-not-found,unused-ignore]
import triton.language as tl  # type: ignore[import-not-found,unused-ignore]


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _rotate(  # type: ignore[no-untyped-def,unused-ignore]
    q, k, cos, sin, q_out, k_out,
    q_batch, q_head, q_token, k_batch, k_head, k_token, c_batch, c_token,
    tokens, q_heads, k_heads,
    HALF: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one token a program; heads beyond q's are k's."""
    row = tl.program_id(0)
    head = tl.program_id(1)
    batch = row // tokens
    token = row % tokens
    places = tl.arange(0, BLOCK)
    inside = places < HALF
    angles = batch * c_batch + token * c_token + places
    cos_low = tl.load(cos + angles, inside, 0.0).to(tl.float32)
    cos_high = tl.load(cos + angles + HALF, inside, 0.0).to(tl.float32)
    sin_low = tl.load(sin + angles, inside, 0.0).to(tl.float32)
    sin_high = tl.load(sin + angles + HALF, inside, 0.0).to(tl.float32)
    if head < q_heads:
        source = q + batch * q_batch + head * q_head + token * q_token + places
        target = q_out + ((batch * q_heads + head) * tokens + token) * (2 * HALF) + places
    else:
        source = k + batch * k_batch + (head - q_heads) * k_head + token * k_token + places
        target = k_out + ((batch * k_heads + head - q_heads) * tokens + token) * (2 * HALF) + places
    low = tl.load(source, inside, 0.0).to(tl.float32)
    high = tl.load(source + HALF, inside, 0.0).to(tl.float32)
    tl.store(target, (low * cos_low - high * sin_low).to(q_out.dtype.element_ty), inside)
    tl.store(target + HALF, (high * cos_high + low * sin_high).to(q_out.dtype.element_ty), inside)


def rotate(q: Any, k: Any, cos: Any, sin: Any) -> tuple[Any, Any]:
    """Rotary position embedding of halves: q, k [batch, heads, tokens, size], cos, sin [batch or 1, tokens, size]."""
    batch, q_heads, tokens, size = q.shape
    k_heads = k.shape[1]
    q_out = torch.empty((batch, q_heads, tokens, size), dtype=q.dtype, device=q.device)
    k_out = torch.empty((batch, k_heads, tokens, size), dtype=k.dtype, device=k.device)
    cos = cos.expand(batch, tokens, size)
    sin = sin.expand(batch, tokens, size)
    _rotate[batch * tokens, q_heads + k_heads](
        q, k, cos, sin, q_out, k_out,
        q.stride(0), q.stride(1), q.stride(2), k.stride(0), k.stride(1), k.stride(2), cos.stride(0), cos.stride(1),
        tokens, q_heads, k_heads,
        HALF=size // 2, BLOCK=triton.next_power_of_2(size // 2),
    )  # fmt: skip
    return q_out, k_out


def can_rotate(q: Any, k: Any, cos: Any, sin: Any) -> bool:
    """Whether `rotate` takes these: the last dimension in one piece, and cos and sin laid out alike."""
    return (
        q.dim() == k.dim() == 4
        and cos.dim() == 3
        and q.shape[-1] == k.shape[-1] == cos.shape[-1]
        and q.shape[-1] % 2 == 0
        and all(each.stride(-1) == 1 for each in (q, k, cos, sin))
        and cos.stride() == sin.stride()
    )


@triton.jit  # type: ignore[untyped-decorator,unused-ignore]
def _write(  # type: ignore[no-untyped-def,unused-ignore]
    keys, values, key, value, positions,
    keys_row, keys_head, keys_place, values_row, values_head, values_place,
    key_row, key_head, value_row, value_head,
    KEY: tl.constexpr, VALUE: tl.constexpr, BLOCK: tl.constexpr,
):  # fmt: skip
    """One head of one row a program."""
    row = tl.program_id(0).to(tl.int64)
    head = tl.program_id(1)
    position = tl.load(positions + row)
    places = tl.arange(0, BLOCK)
    found = tl.load(key + row * key_row + head * key_head + places, places < KEY)
    tl.store(keys + row * keys_row + head * keys_head + position * keys_place + places, found, places < KEY)
    found = tl.load(value + row * value_row + head * value_head + places, places < VALUE)
    tl.store(values + row * values_row + head * values_head + position * values_place + places, found, places < VALUE)


def write_token(keys: Any, values: Any, key: Any, value: Any, positions: Any) -> None:
    """One token's key and value [batch, heads, 1, size] of row b into keys, values [rows, heads, length, size] at positions[b]."""
    batch, heads, _, size = key.shape
    if key.stride(3) != 1 or value.stride(3) != 1:
        key, value = key.contiguous(), value.contiguous()
    _write[batch, heads](
        keys, values, key, value, positions,
        keys.stride(0), keys.stride(1), keys.stride(2), values.stride(0), values.stride(1), values.stride(2),
        key.stride(0), key.stride(1), value.stride(0), value.stride(1),
        KEY=size, VALUE=value.shape[3], BLOCK=triton.next_power_of_2(max(size, value.shape[3])),
    )  # fmt: skip
