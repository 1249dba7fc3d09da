"""Fractional Brownian motion approximated by a sum of Ornstein–Uhlenbeck processes on one Brownian motion."""

from __future__ import annotations

import math
import warnings
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, SolverWarning, TimeGridError

__all__ = ["MarkovFBM"]

NUDGE, BEND = 1e-5, 1e-3
CUT = 1e-13


class MarkovFBM:
    """``B̂_t = Σ_k ω_k (Y_k(t) - Y_k(0))`` with ``dY_k = -γ_k Y_k dt + dW`` and one W for all k.

    The weights minimise ``(1/T) ∫ E (B̂_t - B_t)² dt`` for given rates: ``A ω = b`` in closed form
    (incomplete gamma functions). Type II starts at rest; type I has stationary increments and
    starts from the joint stationary law of Y.

    Parameters
    ----------
    hurst : float or scalar Tensor
        Hurst index in (0, 1); ``omega`` is differentiable in a tensor, twice.
    horizon : float
        Last time T, over which the error is measured.
    n_terms : int
        Number K of processes.
    kind : str
        "II" (Riemann–Liouville) or "I" (Mandelbrot–van Ness).
    gamma_range : tuple of float, optional
        Smallest and largest rate; default ``1e-2 / T`` (II) or ``1e-3 / T`` (I), and ``1e3 / T``. An explicit
        scheme of step dt needs ``γ dt < 0.5``.
    normalize : bool
        Divide by the exact standard deviation at t = 1, so that Var B_1 = 1.

    Raises
    ------
    scidyn.errors.OptionError
        If a value is out of range.

    Examples
    --------
    >>> from scidyn.solvers import MarkovFBM
    >>> noise = MarkovFBM(0.3, horizon=1.0, n_terms=8)
    >>> noise.l2_error < 0.01
    True

    References
    ----------
    R. Daems, M. Opper, G. Crevecoeur, T. Birdal (2024), Variational inference for SDEs driven by fractional noise.
    P. Harms, D. Stefanovits (2019), Affine representations of fractional processes.
    """

    def __init__(
        self,
        hurst: float | Tensor,
        horizon: float,
        n_terms: int = 5,
        kind: str = "II",
        gamma_range: tuple[float, float] | None = None,
        normalize: bool = True,
    ) -> None:
        value = number("hurst", float(hurst.detach()) if isinstance(hurst, Tensor) else hurst, above=0.0, below=1.0)
        self.horizon = number("horizon", horizon, above=0.0)
        self.kind = choice("kind", kind, ("I", "II"))
        count = integer("n_terms", n_terms, at_least=1)
        low, high = ((1e-3 if kind == "I" else 1e-2) / self.horizon, 1e3 / self.horizon)
        if gamma_range is not None:
            low, high = number("gamma_range[0]", gamma_range[0], above=0.0), number("gamma_range[1]", gamma_range[1])
            if high <= low:
                raise OptionError(f"gamma_range must increase; got {low:g} and {high:g}.")
        rates = np.geomspace(low, high, count) if count > 1 else np.array([math.sqrt(low * high)])
        matrix, target = _normal_matrix(rates, self.horizon, kind), _target(rates, self.horizon, value, kind, normalize)
        inverse = np.linalg.pinv(matrix, rcond=CUT, hermitian=True)
        omega = inverse @ target
        size = _size(self.horizon, value, kind, normalize)
        error = (omega @ matrix @ omega - 2 * target @ omega + size) / size
        self.l2_error = max(0.0, float(error))
        self.gamma = torch.tensor(rates, dtype=torch.float64, device="cpu")
        self.omega = torch.tensor(omega, dtype=torch.float64, device="cpu")
        self.hurst = value
        if isinstance(hurst, Tensor) and hurst.requires_grad:
            shift = (hurst - hurst.detach()).to("cpu", torch.float64)
            for power, change in enumerate(_derivatives(rates, self.horizon, value, kind, normalize), 1):
                part = torch.tensor(inverse @ change, dtype=torch.float64, device="cpu")
                self.omega = self.omega + part * shift**power / power
        if self.l2_error > 0.05:
            warnings.warn(
                f"{count} processes reach a relative error of {self.l2_error:.2g} at Hurst index {value:g}: "
                "raise n_terms or widen gamma_range.",
                SolverWarning,
                stacklevel=2,
            )

    def covariance(self, s: Any, t: Any) -> Tensor:
        """Covariance of ``B̂_s`` and ``B̂_t``.

        Parameters
        ----------
        s, t : array_like
            Times, which broadcast.

        Returns
        -------
        Tensor
            In double precision.
        """
        a, b = (torch.as_tensor(x, dtype=torch.float64, device="cpu") for x in (s, t))
        early, late = torch.minimum(a, b)[..., None, None], torch.maximum(a, b)[..., None, None]
        gi, gj = self.gamma.unsqueeze(-1), self.gamma.unsqueeze(-2)
        # E Y_i(early) Y_j(late); the two type-I constants from the stationary start cancel in part
        moving = torch.exp(-gj * (late - early)) - torch.exp(-gi * early - gj * late)
        pairs = moving / (gi + gj)
        if self.kind == "I":
            pairs = pairs + (torch.exp(-gi * early) - 1) * (torch.exp(-gj * late) - 1) / (gi + gj)
        return torch.einsum("i,...ij,j->...", self.omega, pairs, self.omega)

    def sample(self, ts: Any, shape: tuple[int, ...], generator: torch.Generator) -> Tensor:
        """Draw paths by the exact law of the processes.

        Parameters
        ----------
        ts : array_like, shape (T,)
            Increasing times >= 0.
        shape : tuple of int
            Shape of one value.
        generator : torch.Generator
            Source of randomness.

        Returns
        -------
        Tensor, shape (T, *shape)
            ``B̂`` at the times, in double precision.

        Raises
        ------
        scidyn.errors.TimeGridError
            If times do not increase from 0 to at most the horizon.
        """
        times = torch.as_tensor(ts, dtype=torch.float64, device="cpu").tolist()
        pairs = list(zip([0.0, *times[:-1]], times, strict=True))
        if any(b < a for a, b in pairs) or times[0] < 0 or times[-1] > self.horizon * (1 + 1e-9):
            raise TimeGridError(f"ts must increase from 0 to at most the horizon {self.horizon:g}; got {times[:3]} ….")
        total = self.gamma.unsqueeze(-1) + self.gamma
        options: dict[str, Any] = {"generator": generator, "dtype": torch.float64, "device": generator.device}

        def draw(covariance: Tensor) -> Tensor:
            values, vectors = torch.linalg.eigh(covariance)
            root = vectors * values.clamp_min(0.0).sqrt()
            return torch.randn(*shape, len(self.gamma), **options).cpu() @ root.T

        start = (
            draw(1.0 / total)
            if self.kind == "I"
            else torch.zeros(*shape, len(self.gamma), dtype=torch.float64, device="cpu")
        )
        y, out = start, []
        for a, b in pairs:
            h = b - a
            if h > 0:
                y = y * torch.exp(-self.gamma * h) + draw(-torch.expm1(-total * h) / total)
            out.append((y - start) @ self.omega)
        return torch.stack(out)


def _normal_matrix(rates: np.ndarray, T: float, kind: str) -> np.ndarray:
    """``A_ij = ∫_0^T E (Y_i(t) - Y_i(0)) (Y_j(t) - Y_j(0)) dt``."""
    total = rates[:, None] + rates
    if kind == "II":
        return (T + np.expm1(-total * T) / total) / total
    single = np.expm1(-rates * T) / rates
    return (2 * T + single[:, None] + single) / total


def _variance(hurst: float, kind: str) -> float:
    """Var B_1."""
    if kind == "I":
        return 1.0 / (math.gamma(2 * hurst + 1) * math.sin(math.pi * hurst))
    return 1.0 / (2 * hurst * math.gamma(hurst + 0.5) ** 2)


def _size(T: float, hurst: float, kind: str, normalize: bool) -> float:
    """``∫_0^T E B_t² dt``."""
    size = _variance(hurst, kind) * T ** (2 * hurst + 1) / (2 * hurst + 1)
    return size / _variance(hurst, kind) if normalize else size


def _target(rates: np.ndarray, T: float, hurst: float, kind: str, normalize: bool) -> np.ndarray:
    """``b_k = ∫_0^T E B_t (Y_k(t) - Y_k(0)) dt``."""
    from scipy import special

    half, x = hurst + 0.5, rates * T
    if kind == "II":
        first = T / rates**half * special.gammainc(half, x)
        b = first - half / rates ** (half + 1) * special.gammainc(half + 1, x)
    else:
        # e^x Q(a, x) without overflow: by its asymptotic series where x is large
        safe = np.minimum(x, 50.0)
        scaled = np.where(x < 50.0, special.gammaincc(half, safe) * np.exp(safe), _tail(half, np.maximum(x, 50.0)))
        b = 2 * T / rates**half - T**half / (rates * math.gamma(half + 1))
        b = b + (np.exp(-x) - scaled) / rates ** (half + 1)
    return b / math.sqrt(_variance(hurst, kind)) if normalize else b


def _derivatives(
    rates: np.ndarray, T: float, hurst: float, kind: str, normalize: bool
) -> tuple[np.ndarray, np.ndarray]:
    """First and second derivative of the target in the Hurst index, by central differences."""

    def at(shift: float) -> np.ndarray:
        return _target(rates, T, hurst + shift, kind, normalize)

    wide = min(BEND, 0.25 * hurst, 0.25 * (1 - hurst))
    return (at(NUDGE) - at(-NUDGE)) / (2 * NUDGE), (at(wide) - 2 * at(0.0) + at(-wide)) / wide**2


def _tail(a: float, x: np.ndarray) -> np.ndarray:
    """``e^x Q(a, x)`` for large ``x``."""
    term, total = np.ones_like(x), np.ones_like(x)
    for n in range(1, 25):
        term = term * (a - n) / x
        total = total + term
    return total * x ** (a - 1) / math.gamma(a)
