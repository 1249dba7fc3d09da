"""Interpolants between Gaussian mixtures: exact velocity, score and density."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite
from scidyn.bridges.schedules import Schedule
from scidyn.errors import DataError, ShapeError

__all__ = ["MixtureInterpolant"]


class MixtureInterpolant:
    """``x_t = α x0 + β x1 + γ z`` with independent mixtures ``x0, x1``, in closed form.

    Component (i, j) is normal with mean ``α m_i + β n_j`` and covariance
    ``α² C_i + β² D_j + γ² I``; conditional means follow by weighting the components.

    Parameters
    ----------
    weights0, weights1 : array_like, shape (k,)
        Weights of the components at the two ends.
    means0, means1 : array_like, shape (k, d)
        Their means.
    covs0, covs1 : array_like, shape (k, d, d)
        Their covariances.
    schedule : Schedule
        The interpolant's coefficients.

    Raises
    ------
    scidyn.errors.ShapeError
        If shapes do not fit.
    scidyn.errors.DataError
        If weights are negative.

    Examples
    --------
    >>> import torch
    >>> from scidyn.bridges import MixtureInterpolant, schedule
    >>> exact = MixtureInterpolant(
    ...     [0.3, 0.7], [[-2.0], [1.0]], [[[0.2]], [[0.5]]],
    ...     [0.6, 0.4], [[0.0], [3.0]], [[[0.3]], [[0.1]]], schedule("linear", noise=2**0.5))
    >>> x = torch.tensor([[-1.0]], dtype=torch.float64)
    >>> f"{exact.velocity(0.2, x).item():.3f} {exact.score(0.2, x).item():.3f}"
    '3.204 -0.246'
    """

    def __init__(
        self, weights0: Any, means0: Any, covs0: Any, weights1: Any, means1: Any, covs1: Any, schedule: Schedule
    ) -> None:
        p, m, C = (torch.as_tensor(v, dtype=torch.float64) for v in (weights0, means0, covs0))
        q, n, D = (torch.as_tensor(v, dtype=torch.float64) for v in (weights1, means1, covs1))
        d = m.shape[-1]
        for name, w, mean, cov in (("0", p, m, C), ("1", q, n, D)):
            finite(f"weights{name}", w)
            if mean.shape != (len(w), d) or cov.shape != (len(w), d, d):
                raise ShapeError(
                    f"means{name} and covs{name} have shapes {tuple(mean.shape)} and {tuple(cov.shape)}; "
                    f"({len(w)}, {d}) and ({len(w)}, {d}, {d}) are needed."
                )
            if bool((w < 0).any()):
                raise DataError(f"weights{name} must be non-negative; got {w.tolist()}.")
        self._log_w = (p.log().unsqueeze(1) + q.log().unsqueeze(0)).reshape(-1)
        self._m = m.unsqueeze(1).expand(len(p), len(q), d).reshape(-1, d)
        self._n = n.unsqueeze(0).expand(len(p), len(q), d).reshape(-1, d)
        self._C = C.unsqueeze(1).expand(len(p), len(q), d, d).reshape(-1, d, d)
        self._D = D.unsqueeze(0).expand(len(p), len(q), d, d).reshape(-1, d, d)
        self.schedule = schedule

    def _parts(self, t: float, x: Tensor) -> tuple[Any, Tensor, Tensor, Tensor]:
        """Coefficients, responsibilities (n, k), ``Σ^{-1}(x − m)`` (n, k, d) and log densities (n, k)."""
        c = self.schedule(torch.tensor(float(t), dtype=torch.float64))
        mean = c.alpha * self._m + c.beta * self._n
        eye = torch.eye(mean.shape[1], dtype=torch.float64)
        cov = c.alpha**2 * self._C + c.beta**2 * self._D + c.gamma**2 * eye
        normal = torch.distributions.MultivariateNormal(mean, cov)
        gap = x.to(torch.float64).unsqueeze(1) - mean
        log_p = self._log_w + normal.log_prob(x.to(torch.float64).unsqueeze(1))
        scaled = torch.linalg.solve(cov, gap.unsqueeze(3)).squeeze(3)
        return c, torch.softmax(log_p, dim=1), scaled, log_p

    def log_density(self, t: float, x: Tensor) -> Tensor:
        """Log density of ``x_t`` at ``x``, shape ``(n,)``."""
        return torch.logsumexp(self._parts(t, x)[3], dim=1)

    def score(self, t: float, x: Tensor) -> Tensor:
        """``∇ log ρ_t(x)``, shape ``(n, d)``."""
        _, w, scaled, _ = self._parts(t, x)
        return -(w.unsqueeze(2) * scaled).sum(dim=1)

    def velocity(self, t: float, x: Tensor) -> Tensor:
        """``b = E[ẋ_t | x_t = x]``, shape ``(n, d)``; its flow carries ``ρ_0`` to ``ρ_t``."""
        c, w, scaled, _ = self._parts(t, x)
        mean_dot = c.alpha_dot * self._m + c.beta_dot * self._n
        eye = torch.eye(mean_dot.shape[1], dtype=torch.float64)
        half = c.alpha * c.alpha_dot * self._C + c.beta * c.beta_dot * self._D + c.gamma_rate * eye
        each = mean_dot + torch.einsum("kij,nkj->nki", half, scaled)
        return (w.unsqueeze(2) * each).sum(dim=1)
