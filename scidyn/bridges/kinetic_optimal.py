"""The Gaussian probability path of least kinetic energy for given data."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from scidyn._check.tensors import finite, floating
from scidyn._check.values import integer
from scidyn.errors import DataError, ShapeError

__all__ = ["KineticOptimalPath", "kinetic_optimal_path"]


@dataclass(frozen=True)
class KineticOptimalPath:
    """``x_t = a(t) x_1 + m(t) z`` with ``z`` standard normal.

    Attributes
    ----------
    energy : float
        Kinetic energy per dimension, ``4 sin²(Φ/2)``.
    angle : float
        ``Φ``: from 0 for normal data, which need not move, to ``π/2`` for well separated points.
    grid : ndarray, shape (n,)
        Angles ``θ = arctan(a/m)``.
    turned : ndarray, shape (n,)
        ``φ(θ) = ∫ √g``, in which the optimal path is a straight line.
    """

    energy: float
    angle: float
    grid: np.ndarray
    turned: np.ndarray

    def __call__(self, t: Any) -> tuple[np.ndarray, np.ndarray]:
        """Evaluate ``a`` and ``m`` at times in [0, 1]."""
        s = np.asarray(t, dtype=float)
        x, y = 1 + (math.cos(self.angle) - 1) * s, math.sin(self.angle) * s
        radius = np.hypot(x, y)
        still = self.angle < 1e-6  # nothing has to move: turn evenly at unit radius
        theta = s * math.pi / 2 if still else np.interp(np.arctan2(y, x), self.turned, self.grid)
        return radius * np.sin(theta), radius * np.cos(theta)


def kinetic_optimal_path(x: Any, *, draws: int = 20000, seed: int = 0) -> KineticOptimalPath:
    """Schedule of least kinetic energy from standard normal noise to data.

    The energy depends on the data only through ``λ(s) = E |E[x | s x + z]|² / d``. In polar coordinates
    ``a = r sin θ, m = r cos θ`` it is ``∫ ṙ² + r² g(θ) θ̇² dt`` with ``g = 1 − (1 − λ(tan θ)) / cos² θ``: a
    flat metric after ``φ = ∫ √g dθ``, so that the optimum is the chord over the angle ``Φ = φ(π/2)``.

    Parameters
    ----------
    x : array_like, shape (n, d)
        Data with mean 0 and ``E |x|² / d = 1``.
    draws : int
        Monte Carlo draws for λ.
    seed : int
        Seed of the draws.

    Returns
    -------
    KineticOptimalPath

    Raises
    ------
    scidyn.errors.DataError
        If the data are not centred and scaled.

    Examples
    --------
    >>> from scidyn.bridges import kinetic_optimal_path
    >>> path = kinetic_optimal_path([[-1.0], [1.0]])
    >>> abs(path.energy - 0.459) < 0.01
    True

    References
    ----------
    N. Shaul, R. T. Q. Chen, M. Nickel, M. Le, Y. Lipman, On kinetic optimal probability paths for generative
    models, ICML 2023.
    """
    data = finite("x", floating("x", torch.as_tensor(np.asarray(x, dtype=float))))
    if data.ndim != 2:
        raise ShapeError(f"x has shape {tuple(data.shape)}; (n, d) is needed.")
    size = float(data.square().mean())
    if float(data.mean(dim=0).abs().max()) > 0.05 or not 0.9 < size < 1.1:
        raise DataError(
            f"x must have mean 0 and mean square 1; got means up to {float(data.mean(dim=0).abs().max()):.3g} "
            f"and mean square {size:.3g}: centre it and divide by its root mean square."
        )
    generator = torch.Generator().manual_seed(seed)
    count = integer("draws", draws, at_least=100)
    source = data[torch.randint(len(data), (count,), generator=generator)]
    z = torch.randn(source.shape, generator=generator, dtype=data.dtype)
    theta = np.linspace(0.0, math.pi / 2, 161)
    g = np.ones_like(theta)
    lower = np.sin(theta) ** 2  # the best linear estimator: λ ≥ s²/(1 + s²)
    for k, angle in enumerate(theta[1:-1], start=1):
        s = math.tan(angle)
        lam = _separation(data, s * source + z, s) if s < 12 else 1.0
        g[k] = 1 - (1 - min(max(lam, lower[k]), 1.0)) / math.cos(angle) ** 2
    g[0] = g[1]
    root = np.sqrt(np.clip(g, 0.0, None))
    turned = np.concatenate([[0.0], np.cumsum((root[1:] + root[:-1]) / 2 * np.diff(theta))])
    return KineticOptimalPath(4 * math.sin(turned[-1] / 2) ** 2, float(turned[-1]), theta, turned)


def _separation(data: torch.Tensor, noisy: torch.Tensor, s: float) -> float:
    """``E |E[x | s x + z]|² / d`` by softmax weights over the data."""
    total, rows = 0.0, max(1, 2_000_000 // len(data))
    for start in range(0, len(noisy), rows):
        y = noisy[start : start + rows]
        w = torch.softmax(-0.5 * torch.cdist(y, s * data).square(), dim=1)
        total += float((w @ data).square().sum())
    return total / (len(noisy) * data.shape[1])
