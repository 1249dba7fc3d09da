"""The Schrödinger bridge between two normal laws, in closed form."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite
from scidyn._check.values import number
from scidyn.bridges.linear_gaussian import LinearGaussianReference
from scidyn.errors import OptionError, ShapeError

__all__ = ["GaussianBridge"]


class GaussianBridge:
    """The process closest to a linear reference that joins ``N(m0, Σ0)`` to ``N(m1, Σ1)``.

    With ``Σ_u, Σ_v`` the covariances in the coordinates ``u = Q^{-½} F x0, v = Q^{-½} x1`` of the
    reference's transition, the coupling is normal with ::

        Cov(u, v) = ½ (Σ_u^½ D Σ_u^{-½} − I),   D = (4 Σ_u^½ Σ_v Σ_u^½ + I)^½,

    and every marginal, conditional and drift of the bridge follows by conditioning.

    Parameters
    ----------
    m0, m1 : array_like, shape (d,)
        Means at the two ends.
    cov0, cov1 : array_like, shape (d, d)
        Positive definite covariances at the two ends.
    reference : LinearGaussianReference or float
        The reference; a number σ means the Brownian motion ``σ dW``.
    span : float
        Time between the ends.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes do not fit.
    scidyn.errors.OptionError
        If a covariance is not positive definite or the reference cannot move in every direction.

    Examples
    --------
    >>> from scidyn.bridges import GaussianBridge
    >>> bridge = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1.0)
    >>> f"{bridge.cross_covariance.item():.7f}"  # (√2 − 1)/2
    '0.2071068'
    >>> f"{bridge.marginal(0.5)[1].item():.7f}"
    '0.6660534'

    References
    ----------
    C. Bunne, Y.-P. Hsieh, M. Cuturi, A. Krause, The Schrödinger bridge between Gaussian measures has a
    closed form, AISTATS 2023.
    """

    def __init__(self, m0: Any, cov0: Any, m1: Any, cov1: Any, *, reference: Any = 1.0, span: float = 1.0) -> None:
        self.m0, self.m1 = (torch.as_tensor(m, dtype=torch.float64) for m in (m0, m1))
        d = self.m0.shape[-1]
        self.cov0, self.cov1 = (
            _definite(n, torch.as_tensor(c, dtype=torch.float64), d) for n, c in (("cov0", cov0), ("cov1", cov1))
        )
        if self.m0.shape != (d,) or self.m1.shape != (d,):
            raise ShapeError(f"m0 and m1 have shapes {tuple(self.m0.shape)}, {tuple(self.m1.shape)}; (d,) is needed.")
        if not isinstance(reference, LinearGaussianReference):
            reference = LinearGaussianReference.brownian(d, reference)
        if reference.dim != d:
            raise ShapeError(f"The reference has {reference.dim} states; the means have {d}.")
        self.reference, self.span = reference, number("span", span, above=0.0)
        self._whole = reference.transition(self.span)
        _definite("the reference's transition covariance", self._whole.Q, d)
        self.cross_covariance = self._coupling()

    def _coupling(self) -> Tensor:
        root = _power(self._whole.Q, 0.5)
        inverse = _power(self._whole.Q, -0.5)
        to_u = inverse @ self._whole.F
        su, sv = to_u @ self.cov0 @ to_u.mT, inverse @ self.cov1 @ inverse
        half, back = _power(su, 0.5), _power(su, -0.5)
        eye = torch.eye(len(su), dtype=su.dtype, device=su.device)
        c_uv = 0.5 * (half @ _power(4 * half @ sv @ half + eye, 0.5) @ back - eye)
        return torch.linalg.solve(to_u, c_uv @ root)

    def marginal(self, t: float) -> tuple[Tensor, Tensor]:
        """Mean and covariance at time ``t``.

        Parameters
        ----------
        t : float
            Time in ``[0, span]``.

        Returns
        -------
        tuple of Tensor, shapes (d,) and (d, d)
        """
        b = self.reference.bridge(t, self.span)
        cross = b.G0 @ self.cross_covariance @ b.G1.mT
        cov = b.G0 @ self.cov0 @ b.G0.mT + b.G1 @ self.cov1 @ b.G1.mT + cross + cross.mT + b.cov
        return b.G0 @ self.m0 + b.G1 @ self.m1 + b.g, (cov + cov.mT) / 2

    def drift(self, t: float, x: Tensor) -> Tensor:
        """Forward drift ``A x + b + L Lᵀ ∇ log h(t, x)``.

        Parameters
        ----------
        t : float
            Time in ``[0, span)``.
        x : Tensor, shape (*batch, d)
            State.

        Returns
        -------
        Tensor, shape (*batch, d)
        """
        rest = self.reference.transition(self.span - number("t", t, at_least=0.0, below=self.span))
        mean, cov = self.marginal(t)
        b = self.reference.bridge(t, self.span)
        ends = b.G0 @ self.cross_covariance + b.G1 @ self.cov1
        gain = torch.linalg.solve(cov, ends).mT
        x64 = x.to(torch.float64)
        target = self.m1 + (x64 - mean) @ gain.mT
        pull = torch.linalg.solve(rest.Q, (target - x64 @ rest.F.mT - rest.c).mT).mT @ rest.F
        noise = self.reference.L @ self.reference.L.mT
        return (self.reference.drift(t, x64) + pull @ noise).to(x.dtype)

    def velocity(self, t: float, x: Tensor) -> Tensor:
        """Velocity of the flow with the same marginals: drift − ½ L Lᵀ ∇ log ρ.

        Parameters
        ----------
        t : float
            Time in ``[0, span)``.
        x : Tensor, shape (*batch, d)
            State.

        Returns
        -------
        Tensor, shape (*batch, d)
        """
        noise = self.reference.L @ self.reference.L.mT
        return self.drift(t, x) - 0.5 * self.score(t, x) @ noise.to(x)

    def score(self, t: float, x: Tensor) -> Tensor:
        """Gradient of the log density, ``−Σ_t^{-1} (x − m_t)``.

        Parameters
        ----------
        t : float
            Time in ``[0, span]``.
        x : Tensor, shape (*batch, d)
            State.

        Returns
        -------
        Tensor, shape (*batch, d)
        """
        mean, cov = self.marginal(t)
        return -torch.linalg.solve(cov, (x.to(torch.float64) - mean).mT).mT.to(x.dtype)

    def sample_ends(self, n: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Draw pairs ``(x0, x1)`` from the coupling.

        Parameters
        ----------
        n : int
            Number of pairs.
        generator : torch.Generator
            Source of the draw.

        Returns
        -------
        tuple of Tensor, each of shape (n, d)
        """
        d = len(self.m0)
        top = torch.cat([self.cov0, self.cross_covariance], dim=1)
        joint = torch.cat([top, torch.cat([self.cross_covariance.mT, self.cov1], dim=1)], dim=0)
        z = torch.randn(n, 2 * d, generator=generator, dtype=torch.float64)
        both = z @ torch.linalg.cholesky(joint).mT + torch.cat([self.m0, self.m1])
        return both[:, :d], both[:, d:]


def _power(matrix: Tensor, exponent: float) -> Tensor:
    values, vectors = torch.linalg.eigh((matrix + matrix.mT) / 2)
    return (vectors * values.clamp_min(0.0) ** exponent) @ vectors.mT


def _definite(name: str, matrix: Tensor, d: int) -> Tensor:
    finite(name, matrix)
    if matrix.shape != (d, d):
        raise ShapeError(f"{name} has shape {tuple(matrix.shape)}; ({d}, {d}) is needed.")
    if not torch.allclose(matrix, matrix.mT, rtol=1e-8, atol=1e-12):
        raise OptionError(f"{name} is not symmetric.")
    smallest = float(torch.linalg.eigvalsh(matrix)[0])
    if smallest <= 0:
        raise OptionError(f"{name} must be positive definite; its smallest eigenvalue is {smallest:g}.")
    return matrix
