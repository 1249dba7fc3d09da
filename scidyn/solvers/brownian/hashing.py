"""Random numbers as a function of a counter: the same on every device and in every order of asking."""

from __future__ import annotations

import math
import sys
import threading
import types
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

__all__ = ["compiled", "lane_keys", "mix64", "normal_pair", "normal_steps"]

GOLDEN = 0x9E3779B97F4A7C15
FIRST, SECOND = 0xBF58476D1CE4E5B9, 0x94D049BB133111EB
WORD = (1 << 64) - 1
LITTLE = sys.byteorder == "little"
LARGEST_SCRATCH, LARGEST_CACHE = 1 << 17, 64


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
    if not isinstance(variance, Tensor) and _on_host(keys):
        lanes = counter if isinstance(counter, int) else counter.numpy().view(np.uint64)
        both = _host_normals(keys.numpy().view(np.uint64), lanes, dtype, variance)
        return torch.from_numpy(both[0]), torch.from_numpy(both[1])
    step = _signed(counter * GOLDEN) if isinstance(counter, int) else counter * _signed(GOLDEN)
    bits = _scramble(keys + step)
    # the signed upper half: an angle in [-π, π); the lower half: a uniform in (0, 1)
    angle = (bits >> 32).to(dtype).mul_(2.0 * math.pi / 2.0**32)
    radius = bits.bitwise_and_(0xFFFFFFFF).to(dtype).add_(0.5).mul_(2.0**-32).log_().mul_(-2.0 * variance)
    if dtype is torch.float32:  # the lower half may round up to one, whose logarithm is zero
        radius.clamp_min_(0.0)
    radius.sqrt_()
    return torch.cos(angle).mul_(radius), angle.sin_().mul_(radius)


def normal_steps(keys: Tensor, counters: Tensor, dtype: torch.dtype, variance: float | Tensor = 1.0) -> Tensor:
    """Normals of ``2 n`` steps, (2 n, *keys.shape), from ``n`` counters: neighbouring steps share a hash."""
    lanes = counters.view(-1, *([1] * keys.ndim))
    if not isinstance(variance, Tensor) and _on_host(keys):
        words = lanes.numpy().view(np.uint64)
        pair = _host_normals(keys.numpy().view(np.uint64), words, dtype, variance, axis=1)
        return torch.from_numpy(pair).flatten(0, 1)
    return torch.stack(normal_pair(keys, lanes, dtype, variance), dim=1).flatten(0, 1)


def _on_host(keys: Tensor) -> bool:
    """Whether NumPy can read the keys: its logarithms and cosines are two to three times faster."""
    return keys.device.type == "cpu" and type(keys) is Tensor and LITTLE and not torch.compiler.is_compiling()


def _host_normals(keys: Any, counter: Any, dtype: torch.dtype, variance: float, axis: int = 0) -> Any:
    """As the tensor code, in place on arrays; cosines and sines along a new axis."""
    step = np.uint64(counter * GOLDEN & WORD) if isinstance(counter, int) else counter * np.uint64(GOLDEN)
    shape = np.broadcast_shapes(keys.shape, np.shape(step))
    real: Any = np.float64 if dtype is torch.float64 else np.float32
    x, shifted, angle, radius = _scratch(shape, real)
    np.add(keys, step, out=x)
    for shift, factor in ((30, FIRST), (27, SECOND), (31, None)):
        np.right_shift(x, np.uint64(shift), out=shifted)
        np.bitwise_xor(x, shifted, out=x)
        if factor is not None:
            np.multiply(x, np.uint64(factor), out=x)
    halves = x.view(np.int32).reshape(*shape, 2)
    np.copyto(angle, halves[..., 1], casting="unsafe")
    angle *= real(2.0 * math.pi / 2.0**32)
    np.copyto(radius, halves.view(np.uint32)[..., 0], casting="unsafe")
    radius += real(0.5)
    radius *= real(2.0**-32)
    np.log(radius, out=radius)
    radius *= real(-2.0 * variance)
    if real is np.float32:
        np.maximum(radius, real(0.0), out=radius)
    np.sqrt(radius, out=radius)
    both = np.empty((*shape[:axis], 2, *shape[axis:]), dtype=real)
    for part, function in zip(np.moveaxis(both, axis, 0), (np.cos, np.sin), strict=True):
        function(angle, out=part)
        part *= radius
    return both


_local = threading.local()


def _scratch(shape: tuple[int, ...], real: Any) -> list[Any]:
    """Arrays for one draw. Small ones are kept for the next: fresh memory costs more than the arithmetic."""
    kinds = (np.uint64, np.uint64, real, real)
    if math.prod(shape) > LARGEST_SCRATCH:
        return [np.empty(shape, dtype=kind) for kind in kinds]
    if not hasattr(_local, "words"):
        _local.words = [np.empty(LARGEST_SCRATCH, dtype=np.uint64) for _ in kinds]
    size = math.prod(shape)
    return [w.view(kind)[:size].reshape(shape) for w, kind in zip(_local.words, kinds, strict=True)]


_compiled: dict[Any, Callable[..., Any]] = {}


def compiled(function: Callable[..., Any], *kind: Any) -> Callable[..., Any]:
    """The function as one kernel for arguments of one kind, compiled at its first use and shared."""
    if (function, kind) not in _compiled:
        if len(_compiled) >= LARGEST_CACHE:
            _compiled.clear()
        # the compiler counts variants per code object: every kind gets its own
        code = function.__code__.replace(co_name=f"{function.__name__}_{len(_compiled)}")
        own = types.FunctionType(code, function.__globals__, code.co_name, function.__defaults__)
        _compiled[function, kind] = torch.compile(own, fullgraph=True, dynamic=False)
    return _compiled[function, kind]
