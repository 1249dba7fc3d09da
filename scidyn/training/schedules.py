"""Orders in which a fit meets the data: short windows first (multiple shooting), or early times first."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.data.batch import Batch

__all__ = ["Windows", "growing_horizon", "shooting_lengths", "shooting_windows"]


class Windows(NamedTuple):
    """Windows cut from the trajectories of a batch; neighbours share their border time and its value.

    Attributes
    ----------
    batch : Batch
        One row per window; ``index`` says which row of the whole batch it came from.
    first : Tensor of int, shape (window,)
        Column of the whole batch at which each window starts.
    """

    batch: Batch
    first: Tensor


def shooting_lengths(times: int, *, shortest: int = 5, most_windows: int = 32) -> list[int]:
    """Lengths of windows for multiple shooting: doubling from a short one to the whole record.

    Parameters
    ----------
    times : int
        Number of times of the longest trajectory.
    shortest : int
        Times in the first windows.
    most_windows : int
        Longer first windows are taken where there would be more windows than this.

    Returns
    -------
    list of int
        Increasing; the last is ``times``.

    Raises
    ------
    scidyn.errors.OptionError
        If a number is too small.

    Examples
    --------
    >>> from scidyn.training import shooting_lengths
    >>> shooting_lengths(21)
    [5, 9, 17, 21]
    """
    integer("times", times, at_least=2)
    step = max(integer("shortest", shortest, at_least=2) - 1, -(-(times - 1) // integer("most_windows", most_windows)))
    lengths = []
    while step < times - 1:
        lengths.append(step + 1)
        step *= 2
    return [*lengths, times]


def shooting_windows(batch: Batch, length: int) -> Windows:
    """Cut every trajectory into windows of ``length`` times, each with a start of its own.

    Parameters
    ----------
    batch : Batch
        Trajectories, padded with NaN times at the end.
    length : int
        Times per window, at least 2; the last window of a trajectory may be shorter.

    Returns
    -------
    Windows

    Raises
    ------
    scidyn.errors.OptionError
        If ``length`` is below 2.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.training import shooting_windows
    >>> shooting_windows(scidyn.data.to_batch(scidyn.datasets.load("lynx_hare")), 6).batch.y.shape
    torch.Size([4, 6, 2])
    """
    integer("length", length, at_least=2)
    counts = torch.isfinite(batch.t).sum(dim=1).tolist()
    rows, firsts = [], []
    for row, count in enumerate(counts):
        for first in range(0, max(count - 1, 1), length - 1):
            rows.append(row)
            firsts.append(first)
    device = batch.t.device
    row, first = torch.tensor(rows, device=device), torch.tensor(firsts, device=device)
    columns = first.unsqueeze(1) + torch.arange(length, device=device)
    inside = columns < torch.tensor(counts, device=device)[row].unsqueeze(1)
    columns = columns.clamp_max(batch.t.shape[1] - 1)
    pick = (row.unsqueeze(1), columns)
    mask = batch.mask[pick] & inside.reshape(*inside.shape, *([1] * (batch.mask.ndim - 2)))
    cut = Batch(
        t=batch.t[pick].masked_fill(~inside, torch.nan),
        y=torch.where(mask, batch.y[pick], 0.0),
        mask=mask,
        control=None if batch.control is None else batch.control[pick],
        parameter=None if batch.parameter is None else batch.parameter[row],
        index=row,
    )
    return Windows(cut, first)


def growing_horizon(batch: Batch, fractions: Sequence[float] = (0.25, 0.5, 1.0)) -> list[Batch]:
    """Batches that hold the first part of each trajectory's times, then more, then all.

    Parameters
    ----------
    batch : Batch
        Trajectories, padded with NaN times at the end.
    fractions : sequence of float
        Increasing parts of the number of times, in (0, 1].

    Returns
    -------
    list of Batch

    Raises
    ------
    scidyn.errors.OptionError
        If a fraction lies outside (0, 1].

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.training import growing_horizon
    >>> [b.t.shape[1] for b in growing_horizon(scidyn.data.to_batch(scidyn.datasets.load("lynx_hare")))]
    [6, 11, 21]
    """
    total = batch.t.shape[1]
    parts = []
    for fraction in fractions:
        count = min(total, max(2, -(-int(1000 * total * number("a fraction", fraction, above=0, at_most=1)) // 1000)))
        parts.append(
            batch._replace(
                t=batch.t[:, :count],
                y=batch.y[:, :count],
                mask=batch.mask[:, :count],
                control=None if batch.control is None else batch.control[:, :count],
            )
        )
    return parts
