"""Profile likelihoods: how much worse the best fit becomes when one parameter is held at a value."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidyn.sysid.noise import Noise
from scidyn.sysid.shooting import Shooting
from scidyn.training import GaussNewtonResult, gauss_newton
from scidyn.training.gauss_newton import one_problem

__all__ = ["Profiles", "deviance_threshold", "profile", "profile_estimate"]

POINTS_TO_THRESHOLD = 4
MOST_POINTS = 24
BEYOND = 1.15
"""Walks end where the root of the deviance exceeds its threshold by this factor."""


class Profiles(NamedTuple):
    """Curves in the coordinates of the fit.

    Attributes
    ----------
    value, deviance : list of ndarray
        Per parameter: values held, increasing, and twice the loss of log-likelihood there.
    lower, upper : ndarray, shape (parameter,)
        Where the deviance crosses the threshold; infinite where it does not.
    better : Tensor or None
        A point better than the estimate, if the walks met one.
    """

    value: list[np.ndarray]
    deviance: list[np.ndarray]
    lower: np.ndarray
    upper: np.ndarray
    better: Tensor | None


def deviance_threshold(confidence: float, observations: int, parameters: int, *, known_noise: bool) -> float:
    r"""Deviance that bounds an interval of one parameter.

    ``χ²₁`` for known noise; for noise estimated from the same data ``N log(1 + t²/(N − P))`` with
    Student's ``t``, which is exact for linear models with one variance and tends to ``χ²₁``.
    """
    from scipy import stats

    if known_noise:
        return float(stats.chi2.ppf(confidence, 1))
    degrees = observations - parameters
    t = float(stats.t.ppf(0.5 + confidence / 2, degrees))
    return observations * math.log1p(t * t / degrees)


def profile(
    residuals: Callable[[Tensor], tuple[Tensor, Tensor]],
    estimate: Tensor,
    covariance: Tensor,
    cost: float,
    lower: Tensor,
    upper: Tensor,
    count: int,
    threshold: float,
    *,
    groups: Tensor | None,
    floor: Tensor | float,
    advance: Callable[[float], None] | None = None,
) -> Profiles:
    """Walk from the estimate to both sides of the first ``count`` coordinates, refitting all others.

    All walks are one batch of least-squares problems; each point starts from the line through the two
    before it, and the step adapts so that about four points lie before the threshold.
    """
    walks = [_Walk(k, side, estimate, covariance, threshold) for k in range(count) for side in (-1, 1)]
    for round_ in range(MOST_POINTS):
        active = [w for w in walks if w.running]
        for w in active:
            w.propose(lower, upper)
        active = [w for w in active if w.running]
        if not active:
            break
        start = torch.stack([w.guess for w in active]).clamp(lower, upper)
        low, high = lower.repeat(len(active), 1), upper.repeat(len(active), 1)
        for i, w in enumerate(active):
            start[i, w.index] = low[i, w.index] = high[i, w.index] = w.value
        result = _refit(residuals, start, low, high, groups, floor)
        for i, w in enumerate(active):
            w.accept(result[0][i], 2 * (float(result[1][i]) - cost), bool(result[2][i]))
        if advance is not None:
            advance((round_ + 1) / MOST_POINTS)
    better = min(walks, key=lambda w: w.best[0], default=None)
    found = better.best[1] if better is not None and better.best[0] < -1e-3 else None
    pairs = [(walks[2 * k], walks[2 * k + 1]) for k in range(count)]
    return Profiles(
        [np.array([*a.values[:0:-1], *b.values]) for a, b in pairs],
        [np.array([*a.deviances[:0:-1], *b.deviances]) for a, b in pairs],
        np.array([a.crossing() for a, _ in pairs]),
        np.array([b.crossing() for _, b in pairs]),
        found,
    )


def _refit(
    residuals: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    low: Tensor,
    high: Tensor,
    groups: Tensor | None,
    floor: Tensor | float,
) -> tuple[Tensor, Tensor, Tensor]:
    """Estimates, costs and success; a batch in which nothing can be evaluated has infinite costs."""
    from scidyn.errors import FitError

    try:
        result = gauss_newton(
            residuals, start, low, high, groups=groups, floor=floor, iterations=15, tolerance=1e-3, damping=1e-4
        )
    except FitError:
        infinite = torch.full_like(start[:, 0], torch.inf)
        return start, infinite, torch.zeros_like(infinite, dtype=torch.bool)
    return result.estimate, result.cost, torch.isfinite(result.cost)


class _Walk:
    """One parameter, one side."""

    def __init__(self, index: int, side: int, estimate: Tensor, covariance: Tensor, threshold: float) -> None:
        self.index, self.side, self.limit = index, side, math.sqrt(threshold)
        self.values, self.deviances = [float(estimate[index])], [0.0]
        self.points = [estimate]
        deviation = float(covariance[index, index].sqrt())
        known = math.isfinite(deviation) and deviation > 0
        self.step = (deviation if known else 0.1 * max(1.0, abs(self.values[0]))) * self.limit / POINTS_TO_THRESHOLD
        direction = covariance[:, index] / covariance[index, index] if known else torch.zeros_like(estimate)
        self.direction = torch.nan_to_num(direction, nan=0.0, posinf=0.0, neginf=0.0)
        self.running, self.at_bound = True, False
        self.best: tuple[float, Tensor] = (0.0, estimate)
        self.value, self.guess = self.values[0], estimate

    def propose(self, lower: Tensor, upper: Tensor) -> None:
        """Choose the next value to hold, and where the others start."""
        self.value = self.values[-1] + self.side * self.step
        low, high = float(lower[self.index]), float(upper[self.index])
        if not low < self.value < high:
            self.at_bound, self.running = True, False
            return
        if len(self.points) > 1:
            slope = (self.points[-1] - self.points[-2]) / (self.values[-1] - self.values[-2])
        else:
            slope = self.direction
        self.guess = self.points[-1] + slope * (self.value - self.values[-1])

    def accept(self, point: Tensor, deviance: float, good: bool) -> None:
        """Record the refit, then set the next step or end the walk."""
        if not good or not math.isfinite(deviance):
            self.running = False
            return
        if deviance < self.best[0]:
            self.best = (deviance, point)
        self.values.append(self.value)
        self.deviances.append(deviance)
        self.points.append(point)
        root, before = math.sqrt(max(deviance, 0.0)), math.sqrt(max(self.deviances[-2], 0.0))
        if root > BEYOND * self.limit:
            self.running = False
            return
        gain = max(root - before, 1e-12)
        factor = (self.limit / POINTS_TO_THRESHOLD) / gain
        self.step *= min(max(factor, 0.5), 2.0)

    def crossing(self) -> float:
        """Value at the threshold, by monotone interpolation of the root of the deviance."""
        from scipy.interpolate import PchipInterpolator

        root = np.sqrt(np.maximum(self.deviances, 0.0))
        over = np.flatnonzero(root > self.limit)
        if not over.size:
            return self.side * math.inf
        end = int(over[0]) + 1
        begin = end - 1
        while begin > 0 and root[begin - 1] < root[begin]:
            begin -= 1
        return float(PchipInterpolator(root[begin:end], np.array(self.values)[begin:end])(self.limit))


def profile_estimate(
    shooting: Shooting,
    result: GaussNewtonResult,
    noise: Noise,
    threshold: float,
    advance: Callable[[float], None],
) -> tuple[Profiles, GaussNewtonResult]:
    """Profile every parameter; if a walk finds a better fit than the estimate, start again from there."""
    groups = noise.of_residuals(shooting.variable)
    lower, upper = shooting.coordinates.bounds(shooting.rows)
    for _ in range(3):
        profiles = profile(
            shooting,
            result.estimate,
            result.covariance,
            float(result.cost),
            lower,
            upper,
            shooting.coordinates.sizes[0],
            threshold,
            groups=groups,
            floor=noise.floor,
            advance=advance,
        )
        if profiles.better is None:
            break
        again = gauss_newton(
            shooting, profiles.better[None], lower, upper, groups=groups, floor=noise.floor, tolerance=1e-6
        )
        result = one_problem(again, 0)
    return profiles, result
