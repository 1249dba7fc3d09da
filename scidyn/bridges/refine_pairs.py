"""Refinement on pairs: the most likely parameters of the reference's transitions between coupled cells."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidyn.bridges.linearised import Moments, moments
from scidyn.bridges.piecewise import PiecewiseBridge, _grid, _sources
from scidyn.bridges.refine_paths import bounded_step
from scidyn.errors import FitError

__all__ = ["refine_on_pairs"]


class _Targets(NamedTuple):
    """Where the present coupling sends each cell: weight, mean and covariance."""

    weight: Tensor
    mean: Tensor
    cov: Tensor


def refine_on_pairs(state: PiecewiseBridge) -> Tensor:
    """Lower ``−Σ π_ij log p_θ(x_j | x_i)`` over θ by one Fisher-scoring step with backtracking.

    The bridge is the coupling of neighbours filled with the reference's own bridges, so that the
    divergence of paths is that of pairs: no path has to be drawn.

    Parameters
    ----------
    state : PiecewiseBridge
        The bridge for the present parameters.

    Returns
    -------
    Tensor, shape (parameter,)
    """
    family, theta, goal = state.family, state.theta, _targets(state)
    end = Moments(*(part[:, -1] for part in state.ends))
    d_mean, d_cov = _sensitivities(state)
    inverse = torch.linalg.inv(end.cov)
    r = goal.mean - end.mean
    w = goal.weight
    scored = torch.einsum("nij,nj->ni", inverse, r)
    excess = inverse - inverse @ goal.cov @ inverse - scored.unsqueeze(2) * scored.unsqueeze(1)
    slope = torch.einsum("n,ni,nip->p", w, scored, d_mean) - 0.5 * torch.einsum("n,nij,nijp->p", w, excess, d_cov)
    white = torch.einsum("nij,njkp->nikp", inverse, d_cov)
    fisher = torch.einsum("n,nip,nij,njq->pq", w, d_mean, inverse, d_mean)
    fisher = fisher + 0.5 * torch.einsum("n,nijp,njiq->pq", w, white, white)
    base = _loss(goal, end)
    step = bounded_step(fisher, slope, theta, family.lower, family.upper) - theta
    for _ in range(15):
        trial = theta + step
        try:
            loss = _loss(goal, _end_moments(state, trial))
        except FitError:
            loss = np.inf
        if loss <= base:
            return trial
        step = step / 2
    return theta


def _targets(state: PiecewiseBridge) -> _Targets:
    weights, means, covs = [], [], []
    for k, coupling in enumerate(state.couplings):
        y = state.snapshots.clouds[k + 1]
        d = y.shape[1]
        outer = (y.unsqueeze(2) * y.unsqueeze(1)).reshape(len(y), -1)
        both = coupling.average(torch.cat([y, outer], dim=1))
        mean, second = both[:, :d], both[:, d:].reshape(-1, d, d)
        weights.append(state.snapshots.weights[k])
        means.append(mean)
        covs.append(second - mean.unsqueeze(2) * mean.unsqueeze(1))
    return _Targets(torch.cat(weights), torch.cat(means), torch.cat(covs))


def _end_moments(state: PiecewiseBridge, theta: Tensor) -> Moments:
    m = moments(state.family, theta, state.noise, *_sources(state.snapshots), _grid(1))
    return Moments(*(part[:, -1] for part in m))


def _loss(goal: _Targets, end: Moments) -> float:
    factor, info = torch.linalg.cholesky_ex(end.cov)
    if bool((info > 0).any()) or not bool(torch.isfinite(end.mean).all()):
        return np.inf
    r = (goal.mean - end.mean).unsqueeze(2)
    spread = goal.cov + r @ r.mT
    quadratic = torch.cholesky_solve(spread, factor).diagonal(dim1=1, dim2=2).sum(dim=1)
    log_det = 2 * factor.diagonal(dim1=1, dim2=2).log().sum(dim=1)
    return float((goal.weight * 0.5 * (quadratic + log_det)).sum())


def _sensitivities(state: PiecewiseBridge) -> tuple[Tensor, Tensor]:
    """Central differences of the end moments with respect to θ: ``(n, d, p)`` and ``(n, d, d, p)``."""
    d_mean, d_cov = [], []
    for theta_up, theta_down, width in neighbours(state):
        up, down = _end_moments(state, theta_up), _end_moments(state, theta_down)
        d_mean.append((up.mean - down.mean) / width)
        d_cov.append((up.cov - down.cov) / width)
    return torch.stack(d_mean, dim=2), torch.stack(d_cov, dim=3)


def neighbours(state: PiecewiseBridge, fraction: float = 1e-3) -> list[tuple[Tensor, Tensor, float]]:
    """Two parameter vectors on either side of the present one per parameter, within the bounds."""
    out = []
    family, theta = state.family, state.theta
    for q in range(len(theta)):
        h = fraction * max(abs(float(theta[q])), 1e-2)
        up, down = theta.clone(), theta.clone()
        up[q] = min(float(theta[q]) + h, family.upper[q])
        down[q] = max(float(theta[q]) - h, family.lower[q])
        out.append((up, down, float(up[q] - down[q])))
    return out
