"""Refinement on paths: the most likely parameters of the reference on the paths of a bridge."""

from __future__ import annotations

from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidyn.bridges.linearised import expected_step

__all__ = ["bounded_step", "refine_on_paths"]


def refine_on_paths(state: Any, generator: torch.Generator, n_paths: int, n_steps: int) -> Tensor:
    """Minimise ``E_P ∫ |b_θ − b_P|² / (2σ²) dt`` over θ by Gauss–Newton steps within the bounds.

    For a drift linear in θ one step is the answer.

    Parameters
    ----------
    state : PiecewiseBridge or IPFBridge
        The bridge for the present parameters.
    generator : torch.Generator
        Source of the paths.
    n_paths, n_steps : int
        Paths per interval, steps per path.

    Returns
    -------
    Tensor, shape (parameter,)
    """
    t, x, ahead, rate, weight = samples(state, generator, n_paths, n_steps)
    scale = weight.sqrt() / state.noise(x)
    return _Regression(state.family, t, x, ahead, rate, scale).minimise(state.theta)


class _Regression(NamedTuple):
    """Weighted least squares of path rates on the family's drift, averaged over both ends of a step."""

    family: Any
    t: tuple[Tensor, Tensor]
    x: Tensor
    ahead: Tensor
    rate: Tensor
    scale: Tensor

    def residual(self, theta: Tensor) -> Tensor:
        drift = self.family.drift
        b = 0.5 * (drift(self.t[0], self.x, theta) + drift(self.t[1], self.ahead, theta))
        return ((self.rate - b) * self.scale).reshape(-1)

    def normal_equations(self, theta: Tensor) -> tuple[Tensor, Tensor]:
        _, J0 = self.family.jacobian_theta(self.t[0], self.x, theta)
        _, J1 = self.family.jacobian_theta(self.t[1], self.ahead, theta)
        J = (0.5 * (J0 + J1) * self.scale.unsqueeze(2)).reshape(-1, len(theta))
        return J.mT @ J, J.mT @ self.residual(theta)

    def minimise(self, theta: Tensor, iterations: int = 30) -> Tensor:
        """Levenberg–Marquardt from ``theta``."""
        lower, upper = self.family.lower, self.family.upper
        loss, damping = float(self.residual(theta).square().sum()), 0.0
        for _ in range(iterations):
            normal, gradient = self.normal_equations(theta)
            if not (np.isfinite(loss) and bool(torch.isfinite(normal).all())):
                return theta
            for _ in range(10):
                trial = bounded_step(normal, gradient, theta, lower, upper, damping)
                new = float(self.residual(trial).square().sum())
                if np.isfinite(new) and new <= loss:
                    break
                damping = max(10 * damping, 1e-3)
            else:
                return theta
            moved = float(((trial - theta).abs() / theta.abs().clamp_min(1e-3)).max())
            theta, loss, damping = trial, new, damping / 10
            if moved < 1e-6:
                break
        return theta


def samples(state: Any, generator: torch.Generator, n_paths: int, n_steps: int) -> tuple[Any, ...]:
    """States on bridge paths, their expected next states and rates, for all intervals.

    Returns
    -------
    tuple
        Times of the two states, the states ``(n, d)``, the expected next ones, the rates between
        them, and quadrature weights ``(n, 1)``.
    """
    rows: list[tuple[Tensor, ...]] = []
    times = state.snapshots.times
    for k in range(len(times) - 1):
        h = float(times[k + 1] - times[k]) / n_steps
        m, path, ends = state.pairs(k, n_paths, n_steps, generator)
        for step in range(n_steps):
            here = path[:, step]
            ahead = path[:, step + 1] if m is None else expected_step(m, step, here, ends)
            t = torch.full((len(here),), float(times[k]) + h * step, dtype=here.dtype, device=here.device)
            rows.append((t, t + h, here, ahead, (ahead - here) / h, torch.full_like(t, h / n_paths).unsqueeze(1)))
    t0, t1, x, ahead, rate, weight = (torch.cat(column) for column in zip(*rows, strict=True))
    return (t0, t1), x, ahead, rate, weight


def bounded_step(
    normal: Tensor, gradient: Tensor, theta: Tensor, lower: np.ndarray, upper: np.ndarray, damping: float = 0.0
) -> Tensor:
    """Minimise ``½ δᵀ N δ − gᵀ δ`` over ``θ + δ`` within the bounds (parameters scaled by their curvature)."""
    from scipy.optimize import lsq_linear

    scale = normal.diagonal().sqrt().clamp_min(1e-12)
    N = normal / scale.unsqueeze(0) / scale.unsqueeze(1)
    ridge = 1e-10 + damping
    root = torch.linalg.cholesky(N + ridge * torch.eye(len(N), dtype=N.dtype, device=N.device))
    target = torch.linalg.solve_triangular(root, (gradient / scale).unsqueeze(1), upper=False).squeeze(1)
    s, p = scale.numpy(), theta.numpy()
    if np.isinf(lower).all() and np.isinf(upper).all():
        delta = torch.linalg.solve_triangular(root.mT, target.unsqueeze(1), upper=True).squeeze(1)
        return theta + delta / scale
    low, high = (lower - p) * s, (upper - p) * s
    delta = lsq_linear(root.mT.numpy(), target.numpy(), bounds=(low - 1e-12, high + 1e-12)).x
    return torch.as_tensor(np.clip(p + delta / s, lower, upper), dtype=theta.dtype)
