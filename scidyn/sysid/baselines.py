"""Forecasts that cost nothing: the last value, and a linear autoregression."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidyn.sysid.observations import Observations

__all__ = ["linear_autoregression", "persistence"]


def persistence(train: Observations, times: Tensor) -> Tensor:
    """Repeat the last observed value of each variable.

    Parameters
    ----------
    train : Observations
        The past.
    times : Tensor, shape (trajectory, time)
        Times to forecast, after the past.

    Returns
    -------
    Tensor, shape (trajectory, time, variable)
    """
    batch = train.batch
    rows, variables = batch.y.shape[0], batch.y.shape[2]
    last = torch.full((rows, variables), torch.nan, dtype=batch.y.dtype)
    for row in range(rows):
        for k in range(variables):
            seen = batch.mask[row, :, k].nonzero().flatten()
            if len(seen):
                last[row, k] = batch.y[row, seen[-1], k]
    return last.unsqueeze(1).expand(-1, times.shape[1], -1).clone()


def linear_autoregression(train: Observations, times: Tensor) -> Tensor:
    r"""``x_{k+1} = A x_k + b`` on a regular grid of the median step, applied again and again.

    ``x`` are logarithms under log-normal noise. ``A, b`` minimise the squared one-step error over all
    trajectories (the least-norm solution where data are too few). Records with other spacing are
    interpolated to the grid inside the observed span, and forecasts from the grid to the times wanted.

    Parameters
    ----------
    train : Observations
        The past.
    times : Tensor, shape (trajectory, time)
        Times to forecast, after the past.

    Returns
    -------
    Tensor, shape (trajectory, time, variable)

    References
    ----------
    H. Lütkepohl, New Introduction to Multiple Time Series Analysis, section 3.2.
    """
    batch = train.batch
    x = train.link(torch.where(batch.mask, batch.y, 1.0)).numpy()
    seen, t = batch.mask.numpy(), batch.t.numpy()
    gaps = np.diff(t, axis=1)
    step = float(np.median(gaps[np.isfinite(gaps)]))
    grids = [_to_grid(t[row], x[row], seen[row], step) for row in range(len(t))]
    pairs = [(g[:-1], g[1:]) for _, g in grids if len(g) > 1]
    before = np.concatenate([p[0] for p in pairs]) if pairs else np.zeros((0, x.shape[2]))
    after = np.concatenate([p[1] for p in pairs]) if pairs else np.zeros((0, x.shape[2]))
    good = np.isfinite(before).all(axis=1) & np.isfinite(after).all(axis=1)
    centre = before[good].mean(axis=0) if good.any() else np.zeros(x.shape[2])
    design = np.column_stack([before[good] - centre, np.ones(good.sum())])
    coefficients = np.linalg.lstsq(design, after[good], rcond=None)[0]
    wanted = times.numpy()
    out = np.full((*wanted.shape, x.shape[2]), np.nan)
    for row, (start, grid) in enumerate(grids):
        targets = wanted[row][np.isfinite(wanted[row])]
        if not len(grid) or not len(targets):
            continue
        nodes, states = [start], [grid[-1]]
        while nodes[-1] < targets[-1] - 1e-9 * step:
            states.append((states[-1] - centre) @ coefficients[:-1] + coefficients[-1])
            nodes.append(nodes[-1] + step)
        for k in range(x.shape[2]):
            out[row, : len(targets), k] = np.interp(targets, nodes, np.array(states)[:, k])
    result = torch.as_tensor(out)
    return result.exp() if train.noise == "lognormal" else result


def _to_grid(t: np.ndarray, x: np.ndarray, seen: np.ndarray, step: float) -> tuple[float, np.ndarray]:
    """Last time and values (time, variable) on a grid that ends at the last time any variable was seen."""
    any_seen = seen.any(axis=1) & np.isfinite(t)
    if not any_seen.any():
        return float(t[0]), np.zeros((0, x.shape[1]))
    first, last = t[any_seen][0], t[any_seen][-1]
    count = int(np.floor((last - first) / step + 1e-9))
    grid = last - step * np.arange(count, -1, -1)
    values = np.empty((len(grid), x.shape[1]))
    for k in range(x.shape[1]):
        values[:, k] = np.interp(grid, t[seen[:, k]], x[seen[:, k], k]) if seen[:, k].any() else np.nan
    return float(last), values
