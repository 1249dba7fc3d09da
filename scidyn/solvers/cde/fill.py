"""Filling missing values of a record before it becomes a control path."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.errors import DataError

__all__ = ["fill_forward", "fill_linear", "observed_everywhere"]


def _neighbours(known: Tensor) -> tuple[Tensor, Tensor]:
    """Index of the last known entry at or before, and of the first at or after; -1 and K if none."""
    length = known.shape[1]
    index = torch.arange(length, device=known.device).view(1, length, 1).expand_as(known)
    before = torch.where(known, index, -1).cummax(1).values
    after = torch.where(known, index, length).flip(1).cummin(1).values.flip(1)
    return before, after


def observed_everywhere(x: Tensor, never_observed: float | None) -> Tensor:
    """Give channels without a single observation the value ``never_observed``, or raise if it is None."""
    empty = torch.isnan(x).all(1)
    if never_observed is None:
        if bool(empty.any()):
            row, channel = divmod(int(empty.reshape(-1).to(torch.uint8).argmax()), empty.shape[1])
            raise DataError(
                f"channel {channel} of row {row} of x is NaN at every time; drop the channel or pass "
                "never_observed=0.0 (or another value) for such channels."
            )
        return x
    return torch.where(empty.unsqueeze(1), torch.full_like(x, never_observed), x)


def fill_linear(x: Tensor, t: Tensor) -> Tensor:
    """Interpolate missing values linearly in time; hold the first and last observation outwards.

    ``x`` has shape (B, K, C), ``t`` (1, K) or (B, K), and every channel has an observation.
    """
    known = ~torch.isnan(x)
    before, after = _neighbours(known)
    left = torch.where(before < 0, after, before)
    right = torch.where(after >= x.shape[1], before, after)
    clean = torch.where(known, x, torch.zeros_like(x))
    time = t.unsqueeze(-1).expand(x.shape)
    x0, x1 = clean.gather(1, left), clean.gather(1, right)
    t0, t1 = time.gather(1, left), time.gather(1, right)
    gap = t1 - t0
    inside = gap > 0
    weight = torch.where(inside, (time - t0) / torch.where(inside, gap, torch.ones_like(gap)), 0.0)
    return torch.where(known, clean, x0 + weight * (x1 - x0))


def fill_forward(x: Tensor) -> Tensor:
    """Hold the last observation; every channel must be observed at the first time."""
    known = ~torch.isnan(x)
    missing = ~known[:, 0]
    if bool(missing.any()):
        row, channel = divmod(int(missing.reshape(-1).to(torch.uint8).argmax()), missing.shape[1])
        raise DataError(
            f"x[{row}, 0, {channel}] is NaN, and a causal path cannot look ahead for it: put a starting "
            "value there (the population mean, say) or pass never_observed for channels without data."
        )
    before, _ = _neighbours(known)
    return torch.where(known, x, torch.zeros_like(x)).gather(1, before)
