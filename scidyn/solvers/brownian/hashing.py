"""Random numbers as a function of a counter: the same on every device and in every order of asking."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["lane_keys", "mix32", "mix64", "normal_pair"]

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


def mix32(x: int) -> int:
    """A bijection of 32-bit integers that scatters neighbours (MurmurHash3's finaliser)."""
    x &= 0xFFFFFFFF
    x = ((x ^ (x >> 16)) * 0x85EBCA6B) & 0xFFFFFFFF
    x = ((x ^ (x >> 13)) * 0xC2B2AE35) & 0xFFFFFFFF
    return x ^ (x >> 16)


def _scramble(x: Tensor) -> Tensor:
    """SplitMix64's finaliser on int64 lanes; overwrites ``x``. Shifts are made logical by masking."""
    for shift, factor in ((30, FIRST), (27, SECOND)):
        x.bitwise_xor_((x >> shift).bitwise_and_((1 << (64 - shift)) - 1)).mul_(_signed(factor))
    return x.bitwise_xor_((x >> 31).bitwise_and_((1 << 33) - 1))


def lane_keys(seed: int, samples: Tensor, channels: int) -> Tensor:
    """One 64-bit key per (sample, channel), shape (B, channels); depends on no other sample."""
    sample = _scramble((samples.to(torch.int64) * _signed(GOLDEN)).add_(_signed(mix64(seed))))
    channel = torch.tensor([_signed(mix64(c)) for c in range(channels)], dtype=torch.int64, device="cpu").to(
        samples.device
    )
    return _scramble(sample.unsqueeze(-1) + channel)


def normal_pair(keys: Tensor, counter: int | Tensor, dtype: torch.dtype) -> tuple[Tensor, Tensor]:
    """Two independent standard normals for each key, a function of the key and the counter alone.

    ``counter`` is an int for all lanes or an int64 tensor that broadcasts against ``keys``.
    The two halves of one hash give the two uniforms of a Box–Muller transform.
    """
    step = _signed(counter * GOLDEN) if isinstance(counter, int) else counter * _signed(GOLDEN)
    bits = _scramble(keys + step)
    low = bits.bitwise_and(0xFFFFFFFF).to(dtype)
    high = (bits >> 32).to(dtype)
    # the signed upper half: an angle in (-π, π); the lower half: a uniform in (0, 1)
    angle = high.add_(0.5).mul_(2.0 * math.pi / 2.0**32)
    radius = low.add_(0.5).mul_(2.0**-32).log_().mul_(-2.0).sqrt_()
    if dtype is torch.float32:  # the lower half may round up to one, whose logarithm is zero
        radius = radius.clamp_min_(0.0)
    return torch.cos(angle).mul_(radius), torch.sin(angle).mul_(radius)
