"""A start for refinement: parameters whose flow carries the mean and spread of each snapshot to those of the next."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

from scidyn.bridges.family import Family
from scidyn.bridges.linearised import Noise
from scidyn.bridges.snapshots import Snapshots

__all__ = ["MomentMisfit", "matched_start"]

CELLS, STEPS, FOLLOWED, ROUNDS = 16, 30, 8, 20


class MomentMisfit:
    """Residuals of the method of moments over single intervals, for many parameter vectors at once.

    A few cells of every snapshot follow the drift for one interval (classical Runge–Kutta steps); the mean and
    standard deviation of where they arrive, the reference's noise added, are compared with those of the next
    snapshot. Intervals are independent, so no error is carried from one to the next and the landscape stays far
    smoother in the parameters than that of a fit along whole trajectories.

    Parameters
    ----------
    family : Family
        Drift.
    snapshots : Snapshots
        What is to be met.
    noise : callable
        Diagonal diffusion.
    generator : torch.Generator
        Draws the cells.
    """

    def __init__(self, family: Family, snapshots: Snapshots, noise: Noise, generator: torch.Generator) -> None:
        s = snapshots.subsample(CELLS, generator)
        count = [len(c) for c in s.clouds[:-1]]
        self.x = torch.cat(s.clouds[:-1])
        self.start = torch.repeat_interleave(s.times[:-1], torch.tensor(count))
        self.span = torch.repeat_interleave(s.times.diff(), torch.tensor(count))
        self.owner = torch.repeat_interleave(torch.arange(len(count)), torch.tensor(count))
        self.count = torch.tensor(count, dtype=self.x.dtype).unsqueeze(1)
        self.scale = torch.cat(snapshots.clouds).std(dim=0).clamp_min(1e-12)
        full = snapshots.clouds
        # the few cells are moved to the mean of their snapshot, so that their own sampling error does not count
        shift = torch.stack([a.mean(dim=0) - b.mean(dim=0) for a, b in zip(full[:-1], s.clouds[:-1], strict=True)])
        self.x = self.x + shift[self.owner]
        self.mean = torch.stack([c.mean(dim=0) for c in full[1:]])
        self.spread = torch.stack([c.std(dim=0, correction=0) for c in full[1:]])
        self.widening = torch.stack([noise(c).square().mean(dim=0) for c in full[:-1]]) * s.times.diff().unsqueeze(1)
        self._drift = _batched(family, self.x)

    def __call__(self, theta: Tensor) -> Tensor:
        """Residuals for parameters ``(k, parameter)``, shape ``(k, residual)``; not finite where a flow explodes."""
        x, h = self.x.expand(len(theta), *self.x.shape), (self.span / STEPS).unsqueeze(1)
        t, half = self.start, self.span / STEPS / 2
        for _ in range(STEPS):
            k1 = self._drift(t, x, theta)
            k2 = self._drift(t + half, x + h / 2 * k1, theta)
            k3 = self._drift(t + half, x + h / 2 * k2, theta)
            k4 = self._drift(t + 2 * half, x + h * k3, theta)
            x, t = x + h / 6 * (k1 + 2 * k2 + 2 * k3 + k4), t + 2 * half
        mean = self._per_interval(x)
        variance = self._per_interval((x - mean[:, self.owner]).square()) + self.widening
        parts = torch.stack([mean - self.mean, variance.sqrt() - self.spread], dim=1) / self.scale
        return parts.reshape(len(theta), -1)

    def _per_interval(self, x: Tensor) -> Tensor:
        total = x.new_zeros(len(x), len(self.count), x.shape[2]).index_add(1, self.owner, x)
        return total / self.count


def matched_start(
    family: Family, snapshots: Snapshots, noise: Noise, generator: torch.Generator, starts: int
) -> Tensor:
    """Parameters with the least moment misfit that a search from many starts finds.

    Parameters
    ----------
    family : Family
        Drift, with the start that is given.
    snapshots : Snapshots
        What is to be met.
    noise : callable
        Diagonal diffusion.
    generator : torch.Generator
        Draws the other starts.
    starts : int
        How many are looked at; the best few are followed by Levenberg–Marquardt steps.

    Returns
    -------
    Tensor, shape (parameter,)
        The family's own start if nothing is better.
    """
    misfit = MomentMisfit(family, snapshots, noise, generator)
    theta = torch.stack([family.start, *family.around(starts - 1, generator)])
    loss = _loss(misfit(theta))
    best = loss.argsort()[:FOLLOWED]
    chosen = torch.cat([torch.zeros(1, dtype=torch.long), best[best != 0]])  # the given start is always followed
    theta, loss = _follow(misfit, family, theta[chosen], loss[chosen])
    if not bool(torch.isfinite(loss).any()):
        return family.start.clone()
    return theta[0] if float(loss[0]) <= 1.02 * float(loss.min()) else theta[loss.argmin()]


def _follow(misfit: MomentMisfit, family: Family, theta: Tensor, loss: Tensor) -> tuple[Tensor, Tensor]:
    """Levenberg–Marquardt steps within the bounds, all rows at once."""
    low, high = (torch.as_tensor(v, dtype=theta.dtype) for v in (family.lower, family.upper))
    damping = torch.full_like(loss, 1e-2)
    k, p = theta.shape
    for _ in range(ROUNDS):
        width = 1e-5 * theta.abs().clamp_min(1e-2)
        width = torch.where(theta + width > high, -width, width)
        near = theta.unsqueeze(1) + torch.diag_embed(width)
        r = misfit(theta)
        J = (misfit(near.reshape(k * p, p)).reshape(k, p, -1) - r.unsqueeze(1)) / width.unsqueeze(2)
        usable = torch.isfinite(J).all(dim=2).all(dim=1) & torch.isfinite(loss)
        J = torch.where(usable[:, None, None], J, torch.zeros_like(J))
        r = torch.where(usable[:, None], r, torch.zeros_like(r))
        normal = J @ J.mT
        scale = normal.diagonal(dim1=1, dim2=2).clamp_min(1e-12)
        step = torch.linalg.solve(normal + torch.diag_embed(damping.unsqueeze(1) * scale + 1e-12), J @ r.unsqueeze(2))
        trial = torch.minimum(torch.maximum(theta - step.squeeze(2), low), high)
        new = _loss(misfit(trial))
        better = usable & (new < loss)
        gain = float(((loss - new) / loss)[better].max()) if bool(better.any()) else 0.0
        theta = torch.where(better.unsqueeze(1), trial, theta)
        loss = torch.where(better, new, loss)
        damping = torch.where(better, damping / 5, damping * 5)
        if gain < 1e-3 and float(damping.min()) > 1e4:
            break
    return theta, loss


def _loss(residuals: Tensor) -> Tensor:
    return torch.nan_to_num(residuals.square().sum(dim=1), nan=np.inf, posinf=np.inf)


def _batched(family: Family, x: Tensor) -> Callable[[Tensor, Tensor, Tensor], Tensor]:
    """The drift for ``(k, n, d)`` states and ``(k, parameter)`` parameters; one by one if it resists batching."""

    def one_by_one(t: Tensor, states: Tensor, theta: Tensor) -> Tensor:
        return torch.stack([family.drift(t, s, p) for s, p in zip(states, theta, strict=True)])

    together: Callable[[Tensor, Tensor, Tensor], Tensor] = torch.func.vmap(family.drift, in_dims=(None, 0, 0))
    t, two = x.new_zeros(len(x)), family.start.expand(2, -1)
    try:
        agrees = torch.equal(together(t, x.expand(2, *x.shape), two)[0], family.drift(t, x, family.start))
    except RuntimeError:  # a branch on values, say: the drift is used one parameter vector at a time
        agrees = False
    return together if agrees else one_by_one
