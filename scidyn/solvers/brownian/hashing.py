"""Random numbers as a function of a counter: the same on every device and in every order of asking."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

__all__ = ["compiled", "lane_keys", "mix64", "normal_pair", "normal_steps"]

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = (1 << 64) - 1


def _signed(x: int) -> int:
    """The int64 with the same 64 bits."""
    x &= WORD
    return x - (1 << 64) if x >> 63 else x


def mix64(x: int) -> int:
    """SplitMix64's finaliser on a Python integer (Steele, Lea, Flood 2014)."""
    x = (x + GOLDEN) & WORD
    x = ((x ^ (x >> 30)) * FIRST) & WORD
    x = ((x ^ (x >> 27)) * SECOND) & WORD
    return x ^ (x >> 31)


def _scramble(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 lanes; overwrites ``x``. Shifts are made logical by masking."""
    shifted = torch.empty_like(x)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, None)):
        torch.bitwise_right_shift(x, shift, out=shifted)
        x.bitwise_xor_(shifted.bitwise_and_((1 << (64 - shift)) - 1))
        if factor is not None:
            x.mul_(_signed(factor))
    return x


def lane_keys(seed: int, samples: Tensor, channels: int) -> Tensor:
    """One 64-bit key per (sample, channel), shape (B, channels); depends on no other sample."""
    sample = _scramble((samples.to(torch.int64) * _signed(GOLDEN)).add_(_signed(mix64(seed))))
    channel = torch.tensor([_signed(mix64(c)) for c in range(channels)], dtype=torch.int64, device="cpu").to(
        samples.device
    )
    return _scramble(sample.unsqueeze(-1) + channel)


def normal_pair(
    keys: Tensor, counter: int | Tensor, dtype: torch.dtype, variance: float | Tensor = 1.0
) -> tuple[Tensor, Tensor]:
    """Two independent normals for each key, a function of the key and the counter alone.

    ``counter`` is an int for all lanes or an int64 tensor that broadcasts against ``keys``.
    The two halves of one hash give the two uniforms of a Box–Muller transform.
    """
    radius, angle = _polar(keys, counter, dtype, variance)
    return torch.cos(angle).mul_(radius), angle.sin_().mul_(radius)


def _polar(
    keys: Tensor, counter: int | Tensor, dtype: torch.dtype, variance: float | Tensor
) -> tuple[Tensor, Tensor]:
    """Radius and angle of the pair."""
    step = _signed(counter * GOLDEN) if isinstance(counter, int) else counter * _signed(GOLDEN)
    bits = _scramble(keys + step)
    # the signed upper half: an angle in [-π, π); the lower half: a uniform in (0, 1)
    angle = (bits >> 32).to(dtype).mul_(2.0 * math.pi / 2.0**32)
    radius = bits.bitwise_and_(0xFFFFFFFF).to(dtype).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0 * variance)
    if dtype is torch.float32:  # the lower half may round up to one, whose logarithm is zero
        radius.clamp_min_(0.0)
    return radius.sqrt_(), angle


def normal_steps(keys: Tensor, counters: Tensor, dtype: torch.dtype, variance: float | Tensor = 1.0) -> Tensor:
    """Normals of ``2 n`` steps, (2 n, *keys.shape), from ``n`` counters: neighbouring steps share a hash."""
    lanes = counters.view(-1, *([1] * keys.ndim))
    radius, angle = _polar(keys, lanes, dtype, variance)
    pair = torch.cos(angle).mul_(radius), angle.sin_().mul_(radius)
    return torch.stack(pair, dim=1).flatten(0, 1)


_compiled: dict[Callable[..., Any], Callable[..., Any]] = {}


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function as one kernel, compiled at its first use and shared by all paths."""
    if function not in _compiled:
        _compiled[function] = torch.compile(function, fullgraph=True, dynamic=False)
    return _compiled[function]
