"""Bands for new measurements: spread of the fit plus noise, as quantiles of an exact mixture."""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = ["draw", "mixture_quantile", "padded_times"]

HALVINGS = 40


def draw(mean: Tensor, covariance: Tensor, count: int, seed: int) -> Tensor:
    """Normal draws (count, P); directions of infinite variance stay at the mean."""
    known = torch.isfinite(covariance.diagonal())
    both = known.unsqueeze(0) & known.unsqueeze(1)
    values, vectors = torch.linalg.eigh(torch.where(both, covariance, 0.0))
    root = vectors * values.clamp_min(0.0).sqrt()
    generator = torch.Generator().manual_seed(seed)
    normal = torch.randn(count, len(mean), generator=generator, dtype=mean.dtype).to(mean.device)
    return mean + normal @ root.T


def mixture_quantile(means: Tensor, std: Tensor, probability: float) -> Tensor:
    """Quantile of ``(1/K) Σ_k N(means_k, std²)`` along the first axis, by bisection; NaN draws are left out.

    Parameters
    ----------
    means : Tensor, shape (K, *shape)
        One normal per draw of the parameters.
    std : Tensor, broadcasts to ``shape``
        Noise.
    probability : float
        Between 0 and 1.

    Returns
    -------
    Tensor, shape (*shape)
    """
    there = torch.isfinite(means)
    count = there.sum(dim=0)
    low = torch.where(there, means, torch.inf).amin(dim=0) - 9 * std
    high = torch.where(there, means, -torch.inf).amax(dim=0) + 9 * std
    centres = torch.where(there, means, 0.0)
    for _ in range(HALVINGS):
        middle = 0.5 * (low + high)
        z = (middle - centres) / (std * math.sqrt(2))
        share = torch.where(there, 0.5 * (1 + torch.erf(z)), 0.0).sum(dim=0) / count
        below = share < probability
        low, high = torch.where(below, middle, low), torch.where(below, high, middle)
    return torch.where(count > 0, 0.5 * (low + high), torch.nan)


def padded_times(starts: Tensor, times: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Times to solve for when each row begins at its own start.

    Parameters
    ----------
    starts : Tensor, shape (row,)
        Time of each row's initial state.
    times : Tensor, shape (row, time)
        Times wanted, increasing, NaN-padded at the end.

    Returns
    -------
    grid : Tensor, shape (row, 1 + time)
        Start and wanted times from then on, NaN-padded at the end.
    column : Tensor of int, shape (row, time)
        Where each wanted time is in ``grid``.
    valid : Tensor of bool, shape (row, time)
        False for padding and for times before the start.
    """
    valid = torch.isfinite(times) & (times >= starts.unsqueeze(1))
    column = valid.cumsum(dim=1)
    grid = times.new_full((times.shape[0], 1 + times.shape[1]), torch.nan)
    grid[:, 0] = starts
    row = torch.arange(times.shape[0], device=times.device).unsqueeze(1).expand_as(times)
    grid[row[valid], column[valid]] = times[valid]
    longest = int(column[:, -1].max()) + 1
    return grid[:, :longest], column, valid
