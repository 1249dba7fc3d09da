"""Fractional Brownian motion as a weighted sum of Ornstein–Uhlenbeck processes on one Brownian motion."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import increasing
from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError

__all__ = ["MarkovFBM"]


def _gamma_fraction(a: Tensor, x: Tensor) -> Tensor:
    """``Q(a, x) e^x x^-a Γ(a)`` for x >= 10, by Lentz's continued fraction: no overflow."""
    b = x + 1.0 - a
    c = torch.full_like(x, 1e300)
    d = 1.0 / b
    h = d
    for i in range(1, 80):
        an = -i * (i - a)
        b = b + 2.0
        d = 1.0 / (an * d + b)
        c = b + an / c
        h = h * d * c
    return h


def _upper_scaled(a: float, x: Tensor) -> Tensor:
    """``e^x Q(a, x)``, with Q the regularised upper incomplete gamma function."""
    order = torch.full_like(x, a)
    small = torch.exp(x.clamp_max(10.0)) * torch.special.gammaincc(order, x.clamp_max(10.0))
    big = x.clamp_min(10.0)
    large = _gamma_fraction(order, big) * torch.exp(a * torch.log(big) - math.lgamma(a))
    return torch.where(x < 10.0, small, large)


def _system(kind: str, hurst: float, horizon: float, rates: Tensor) -> tuple[Tensor, Tensor, float]:
    """Normal equations ``A ω = b`` of the best weights, and the squared norm ``c`` of the target."""
    T, a = horizon, hurst + 0.5
    x = rates * T
    both = rates.unsqueeze(0) + rates.unsqueeze(1)
    if kind == "II":
        A = (T + torch.expm1(-both * T) / both) / both
        lower = torch.special.gammainc(torch.full_like(x, a), x)
        lower_next = torch.special.gammainc(torch.full_like(x, a + 1.0), x)
        b = T / rates**a * lower - a / rates ** (a + 1.0) * lower_next
        c = T ** (2 * hurst + 1) / (2 * hurst * (2 * hurst + 1) * math.gamma(a) ** 2)
        return A, b, c
    single = torch.expm1(-x) / rates
    A = (2 * T + single.unsqueeze(0) + single.unsqueeze(1)) / both
    b = 2 * T / rates**a - T**a / (rates * math.gamma(a + 1.0))
    b = b + (torch.exp(-x) - _upper_scaled(a, x)) / rates ** (a + 1.0)
    variance = 1.0 / (math.gamma(2 * hurst + 1) * math.sin(math.pi * hurst))
    return A, b, variance * T ** (2 * hurst + 1) / (2 * hurst + 1)


def _weights(kind: str, hurst: float, horizon: float, rates: Tensor) -> Tensor:
    """Least-squares weights, in double precision."""
    A, b, _ = _system(kind, hurst, horizon, rates)
    scale = A.diagonal().rsqrt()
    scaled = scale.unsqueeze(0) * A * scale.unsqueeze(1)
    values, vectors = torch.linalg.eigh(scaled)
    keep = values > 1e-14 * values[-1]
    inverse = torch.where(keep, 1.0 / values.clamp_min(1e-300), 0.0)
    return scale * (vectors @ (inverse * (vectors.T @ (scale * b))))


class _Weights(torch.autograd.Function):
    """Weights as a function of the Hurst index; derivative by a fourth-order central difference."""

    @staticmethod
    def forward(ctx: Any, hurst: Tensor, kind: str, horizon: float, rates: Tensor) -> Tensor:
        h = hurst.item()
        step = min(1e-3, 0.2 * h, 0.2 * (1 - h))
        near, far = (
            (_weights(kind, h + k * step, horizon, rates) - _weights(kind, h - k * step, horizon, rates))
            for k in (1, 2)
        )
        ctx.save_for_backward((8 * near - far) / (12 * step))
        return _weights(kind, h, horizon, rates)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        (slope,) = ctx.saved_tensors
        return (grads[0] * slope).sum(), None, None, None


class MarkovFBM:
    """Fractional Brownian motion approximated by K linear states driven by one Brownian motion.

    ``B̂_t = Σ_k ω_k (Y_k(t) - Y_k(0))`` with ``dY_k = -γ_k Y_k dt + dW``. The weights minimise
    ``∫_0^T E(B̂_t - B_t)² dt``. Kind I has stationary increments, kind II starts at rest.

    Parameters
    ----------
    hurst : float or 0-d Tensor
        Hurst index in (0, 1); gradients flow into a tensor.
    horizon : float
        T, the last time of use.
    n_terms : int
        Number K of states.
    kind : str
        "I" (Mandelbrot–van Ness) or "II" (Riemann–Liouville).
    gamma_range : tuple of float, optional
        Smallest and largest rate γ; default ``(1e-2 / T, 1e4 / T)``, spaced evenly in the logarithm.
    normalize : bool
        Scale to unit variance at t = 1.

    Attributes
    ----------
    gamma, omega : Tensor, shape (K,)
        Rates and weights, in double precision.
    l2_error : float
        Root of the relative mean square error on [0, T], squared norm ratio ``E T / c``.

    Raises
    ------
    scidyn.errors.OptionError
        If the index is outside (0, 1), a rate is not positive, or one term is to represent H ≠ ½.

    Examples
    --------
    >>> from scidyn.solvers import MarkovFBM
    >>> noise = MarkovFBM(0.3, horizon=1.0, n_terms=8)
    >>> noise.l2_error < 1e-3
    True

    References
    ----------
    P. Harms, D. Stefanovits (2019), Affine representations of fractional processes.
    R. Daems, M. Opper, G. Crevecoeur, T. Birdal (2024), Variational inference for SDEs driven by fractional noise.
    """

    def __init__(
        self,
        hurst: float | Tensor,
        horizon: float,
        n_terms: int = 8,
        kind: str = "II",
        gamma_range: tuple[float, float] | None = None,
        normalize: bool = True,
    ) -> None:
        value = number("hurst", hurst.item() if isinstance(hurst, Tensor) else hurst, above=0.0, below=1.0)
        self.kind = choice("kind", kind, ("I", "II"))
        self.horizon = number("horizon", horizon, above=0.0)
        K = integer("n_terms", n_terms, at_least=1)
        if K == 1 and abs(value - 0.5) > 1e-12:
            raise OptionError("one term cannot represent a Hurst index other than 0.5: pass n_terms >= 2.")
        low, high = (1e-2 / self.horizon, 1e4 / self.horizon) if gamma_range is None else gamma_range
        if not 0 < low < high:
            raise OptionError(f"gamma_range must be two increasing rates > 0; got ({low:g}, {high:g}).")
        device = hurst.device if isinstance(hurst, Tensor) else torch.device("cpu")
        self.gamma = torch.logspace(math.log10(low), math.log10(high), K, dtype=torch.float64, device=device)
        self.hurst = value
        if isinstance(hurst, Tensor):
            omega: Tensor = _Weights.apply(hurst, kind, self.horizon, self.gamma)
        else:
            omega = _weights(kind, value, self.horizon, self.gamma)
        A, b, c = _system(kind, value, self.horizon, self.gamma)
        plain = omega.detach()
        self.l2_error = float((plain @ A @ plain - 2 * b @ plain + c) / c)
        if normalize:
            index = (
                hurst.to(torch.float64)
                if isinstance(hurst, Tensor)
                else torch.full((), value, dtype=torch.float64, device=omega.device)
            )
            omega = omega / self._variance(index).sqrt()
        self.omega = omega

    def _variance(self, h: Tensor) -> Tensor:
        """Variance of the exact process at time one."""
        if self.kind == "II":
            return 1.0 / (2 * h * torch.exp(2 * torch.lgamma(h + 0.5)))
        return 1.0 / (torch.exp(torch.lgamma(2 * h + 1)) * torch.sin(math.pi * h))

    def covariance(self, s: float, t: float) -> Tensor:
        """``Cov(B̂_s, B̂_t)`` of the approximation.

        Parameters
        ----------
        s, t : float
            Times >= 0.

        Returns
        -------
        Tensor, shape ()
        """
        early, late = min(s, t), max(s, t)
        g = self.gamma
        both = g.unsqueeze(0) + g.unsqueeze(1)
        lag = torch.exp(-g * (late - early)).unsqueeze(0)  # of the second factor
        if self.kind == "II":
            start = torch.exp(-(g * early).unsqueeze(1) - (g * late).unsqueeze(0))
            matrix = (lag - start) / both
        else:
            matrix = (lag - torch.exp(-g * early).unsqueeze(1) - torch.exp(-g * late).unsqueeze(0) + 1.0) / both
        return self.omega @ matrix @ self.omega

    def sample(self, t: Tensor, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Exact paths of the approximation at the times ``t``.

        Parameters
        ----------
        t : Tensor, shape (N,)
            Increasing times >= 0.
        shape : tuple of int
            Shape of one time's values.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor, shape (N, *shape)
        """
        if t.ndim != 1:
            raise ShapeError(f"t must have shape (N,); got {tuple(t.shape)}.")
        times = increasing("t", t.detach().to(torch.float64)).tolist()
        if times[0] < 0 or times[-1] > self.horizon * (1 + 1e-9):
            raise OptionError(f"t must lie in [0, {self.horizon:g}], the horizon of the weights.")
        g = self.gamma
        both = g.unsqueeze(0) + g.unsqueeze(1)

        def draw(covariance: Tensor) -> Tensor:  # singular to rounding: clamp the spectrum
            values, vectors = torch.linalg.eigh(covariance)
            z = torch.randn((*shape, len(g)), generator=generator, dtype=torch.float64, device=g.device)
            return z @ (vectors * values.clamp_min(0.0).sqrt()).T

        start = (
            draw(1.0 / both)
            if self.kind == "I"
            else torch.zeros((*shape, len(g)), dtype=torch.float64, device=g.device)
        )
        state, now, rows = start.to(g.device), 0.0, []
        first = state
        for time in times:
            h = time - now
            if h > 0:
                state = state * torch.exp(-g * h) + draw(-torch.expm1(-both * h) / both)
            now = time
            rows.append((state - first) @ self.omega)
        return torch.stack(rows)
