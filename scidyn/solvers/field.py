"""The user's vector field seen by the steppers: rows in, rows out, time always increasing."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.precision import HALF, same_precision

__all__ = ["Field"]


class Field:
    """``f`` on states flattened to rows ``(batch, D)`` in the time ``τ = sign * t``.

    Parameters
    ----------
    f : callable
        ``f(t, y)`` or ``f(t, y, args)``.
    args : object
        Third argument of ``f``; None means that ``f`` takes two.
    shape : torch.Size
        Shape of the state as the user gave it.
    sign : float
        −1.0 if the user's times decrease.
    per_sample : bool
        True if ``f`` receives one time per sample.
    """

    def __init__(self, f: Callable[..., Tensor], args: Any, shape: torch.Size, sign: float, per_sample: bool) -> None:
        self.f = f
        self.args = args
        self.shape = shape
        self.sign = sign
        self.per_sample = per_sample
        self.calls = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate ``sign * f(sign * t, y)``; shapes (1,) or (batch,), and (batch, D)."""
        self.calls += 1
        rate = self.raw(t, y).reshape(y.shape)
        if rate.dtype in HALF:
            rate = rate.to(y.dtype)
        return rate if self.sign > 0 else -rate

    def raw(self, t: Tensor, y: Tensor) -> Tensor:
        """Call ``f`` with the shapes and the direction of time that its author chose."""
        time = (t if self.sign > 0 else -t).to(y.real.dtype)
        batched = self.per_sample and len(self.shape) > 1
        # with fixed steps a failed sample stands still: the largest time is that of the others
        time = time if batched else time.amax()
        state = y.reshape(self.shape)
        return self.f(time, state) if self.args is None else self.f(time, state, self.args)

    def probe(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate once at the start and refuse what no step could use."""
        before = y.clone()
        rate = self.raw(t, y)
        if not isinstance(rate, Tensor):
            raise ShapeError(
                f"f returned a {type(rate).__name__}, a tensor of shape {tuple(self.shape)} is needed: "
                "combine the components with torch.stack([...], dim=-1)."
            )
        if rate.shape != self.shape:
            raise ShapeError(
                f"f returned shape {tuple(rate.shape)}, the state has shape {tuple(self.shape)}: "
                "return one rate for each entry of y."
            )
        rate = same_precision(rate, y.dtype, "what f returned")
        if rate.device != y.device:
            raise ShapeError(
                f"f returned a tensor on {rate.device}, the state is on {y.device}: move both to one device."
            )
        if not torch.equal(before.nan_to_num(), y.nan_to_num()):
            raise OptionError("f changed y in place; write y = y.clone() at its start, or use y + ... forms.")
        rate = rate.reshape(y.shape)
        return rate if self.sign > 0 else -rate
