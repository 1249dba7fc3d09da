"""Linear stochastic references: Brownian motion, Ornstein–Uhlenbeck, momentum."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite
from scidyn._check.values import integer, number
from scidyn.errors import ShapeError

__all__ = ["Bridge", "LinearGaussianReference", "Transition"]


class Transition(NamedTuple):
    """The law of ``X_{t+Δ}`` given ``X_t = x``: normal with mean ``F x + c`` and covariance ``Q``.

    Attributes
    ----------
    F : Tensor, shape (d, d)
        Propagator.
    c : Tensor, shape (d,)
        Offset.
    Q : Tensor, shape (d, d)
        Covariance.
    """

    F: Tensor
    c: Tensor
    Q: Tensor


class Bridge(NamedTuple):
    """The law of ``X_s`` given both ends: normal with mean ``G0 x0 + G1 x1 + g`` and covariance ``cov``.

    Attributes
    ----------
    G0, G1 : Tensor, shape (d, d)
        Weights of the two ends.
    g : Tensor, shape (d,)
        Offset.
    cov : Tensor, shape (d, d)
        Covariance.
    """

    G0: Tensor
    G1: Tensor
    g: Tensor
    cov: Tensor


class LinearGaussianReference:
    """The linear stochastic differential equation ``dX = (A X + b) dt + L dW``.

    Its transitions are normal and known in closed form (matrix exponential of the Van Loan block),
    and so are its bridges between two points.

    Parameters
    ----------
    A : array_like, shape (d, d)
        Drift matrix, 1/time.
    b : array_like, shape (d,)
        Constant drift, state/time.
    L : array_like, shape (d, m)
        Diffusion, state/√time.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes do not fit.
    scidyn.errors.NonFiniteError
        If an entry is not finite.

    Examples
    --------
    >>> from scidyn.bridges import LinearGaussianReference
    >>> ou = LinearGaussianReference.ornstein_uhlenbeck(dim=1, rate=1.0, sigma=2.0)
    >>> f"{ou.transition(50.0).Q.item():.3f}"  # the stationary variance σ²/(2 rate)
    '2.000'

    References
    ----------
    C. F. Van Loan, Computing integrals involving the matrix exponential, IEEE Trans. Autom. Control 23, 1978.
    """

    def __init__(self, A: Any, b: Any, L: Any) -> None:
        self.A = finite("A", torch.as_tensor(A, dtype=torch.float64))
        self.b = finite("b", torch.as_tensor(b, dtype=torch.float64))
        self.L = finite("L", torch.as_tensor(L, dtype=torch.float64))
        d = self.A.shape[-1]
        if self.A.shape != (d, d) or self.b.shape != (d,) or self.L.ndim != 2 or self.L.shape[0] != d:
            raise ShapeError(
                f"A, b, L have shapes {tuple(self.A.shape)}, {tuple(self.b.shape)}, {tuple(self.L.shape)}; "
                "(d, d), (d,) and (d, m) are needed."
            )

    @property
    def dim(self) -> int:
        """Size of the state."""
        return self.A.shape[0]

    @classmethod
    def brownian(cls, dim: int, sigma: float = 1.0) -> LinearGaussianReference:
        """``dX = σ dW``.

        Parameters
        ----------
        dim : int
            Size of the state.
        sigma : float
            Diffusion, state/√time.
        """
        d, s = integer("dim", dim, at_least=1), number("sigma", sigma, above=0.0)
        eye = torch.eye(d, dtype=torch.float64)  # device: CPU, closed forms are small
        return cls(0.0 * eye, eye.new_zeros(d), s * eye)

    @classmethod
    def ornstein_uhlenbeck(
        cls, dim: int, rate: float = 1.0, mean: Any = 0.0, sigma: float = 1.0
    ) -> LinearGaussianReference:
        """``dX = −rate (X − mean) dt + σ dW``.

        Parameters
        ----------
        dim : int
            Size of the state.
        rate : float
            Relaxation rate, 1/time.
        mean : float or array_like of shape (dim,)
            Centre.
        sigma : float
            Diffusion, state/√time.
        """
        base = cls.brownian(dim, sigma)
        k = number("rate", rate)
        centre = torch.as_tensor(mean, dtype=torch.float64).expand(dim)
        return cls(-k * torch.eye(dim, dtype=torch.float64), k * centre, base.L)

    @classmethod
    def momentum(cls, dim: int, sigma: float = 1.0) -> LinearGaussianReference:
        """``dX = V dt, dV = σ dW``: integrated Brownian motion on the state ``(X, V)`` of size 2 dim.

        Parameters
        ----------
        dim : int
            Size of the position.
        sigma : float
            Diffusion of the velocity, state/time^{3/2}.
        """
        d, s = integer("dim", dim, at_least=1), number("sigma", sigma, above=0.0)
        A = torch.zeros(2 * d, 2 * d, dtype=torch.float64)
        A[:d, d:] = torch.eye(d, dtype=torch.float64)
        L = torch.zeros(2 * d, d, dtype=torch.float64)
        L[d:] = s * torch.eye(d, dtype=torch.float64)
        return cls(A, A.new_zeros(2 * d), L)

    def drift(self, t: Any, x: Tensor) -> Tensor:
        """Evaluate ``A x + b``.

        Parameters
        ----------
        t : Tensor
            Time; not used.
        x : Tensor, shape (*batch, d)
            State.
        """
        return x @ self.A.to(x).mT + self.b.to(x)

    def transition(self, dt: float) -> Transition:
        """Law of the state after a time ``dt``.

        Parameters
        ----------
        dt : float
            Elapsed time, non-negative.

        Returns
        -------
        Transition
        """
        h, d = number("dt", dt, at_least=0.0), self.dim
        block = self.A.new_zeros(2 * d, 2 * d)
        block[:d, :d], block[:d, d:], block[d:, d:] = -self.A, self.L @ self.L.mT, self.A.mT
        power = torch.linalg.matrix_exp(block * h)
        F = power[d:, d:].mT.contiguous()
        Q = F @ power[:d, d:]
        affine = self.A.new_zeros(d + 1, d + 1)
        affine[:d, :d], affine[:d, d] = self.A, self.b
        return Transition(F, torch.linalg.matrix_exp(affine * h)[:d, d], (Q + Q.mT) / 2)

    def bridge(self, s: float, span: float) -> Bridge:
        """Law of the state at ``s`` given the states at 0 and at ``span``.

        Parameters
        ----------
        s : float
            Time inside ``[0, span]``.
        span : float
            Length of the bridge, positive.

        Returns
        -------
        Bridge
        """
        T = number("span", span, above=0.0)
        first, rest = (
            self.transition(number("s", s, at_least=0.0, at_most=T)),
            self.transition(T - s),
        )
        whole = self.transition(T)
        gain = torch.linalg.solve(whole.Q, rest.F @ first.Q).mT
        cov = first.Q - gain @ rest.F @ first.Q
        return Bridge(first.F - gain @ whole.F, gain, first.c - gain @ whole.c, (cov + cov.mT) / 2)
