"""Transport between Gaussian laws in closed form: exact, entropic, and the Schrödinger bridge."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating
from scidyn._check.values import number
from scidyn.errors import DataError, OptionError, ShapeError

__all__ = ["GaussianBridge", "bures_wasserstein", "gaussian_map", "gaussian_sinkhorn"]


def _law(name: str, mean: Any, covariance: Any) -> tuple[Tensor, Tensor]:
    """Checked mean (d,) and symmetric positive semi-definite covariance (d, d)."""
    mean, covariance = torch.as_tensor(mean), torch.as_tensor(covariance)
    finite(f"the mean of {name}", floating(f"the mean of {name}", mean))
    finite(f"the covariance of {name}", floating(f"the covariance of {name}", covariance))
    if mean.ndim != 1 or covariance.shape != (len(mean), len(mean)):
        raise ShapeError(
            f"{name} needs a mean of shape (d,) and a covariance of shape (d, d); "
            f"got {tuple(mean.shape)} and {tuple(covariance.shape)}."
        )
    scale = covariance.abs().amax()
    if bool((covariance - covariance.T).abs().amax() > 1e-5 * scale):
        raise DataError(f"the covariance of {name} is not symmetric: pass 0.5 * (S + S.T).")
    lowest = torch.linalg.eigvalsh(covariance.detach())[0]
    if bool(lowest < -1e-5 * scale):
        raise DataError(f"the covariance of {name} has a negative eigenvalue, {float(lowest):.3g}.")
    return mean, covariance


def _pair(m0: Any, S0: Any, m1: Any, S1: Any) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    first, second = _law("the first law", m0, S0), _law("the second law", m1, S1)
    if first[0].shape != second[0].shape:
        raise ShapeError(f"the laws have dimensions {len(first[0])} and {len(second[0])}; they must agree.")
    return (*first, *second)


def _power(S: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric positive semi-definite matrix."""
    values, vectors = torch.linalg.eigh(S)
    return (vectors * values.clamp_min(0.0).pow(exponent)) @ vectors.mT


def bures_wasserstein(m0: Any, S0: Any, m1: Any, S1: Any) -> Tensor:
    r"""Distance W2 between two Gaussian laws.

    .. math:: W_2^2 = |m_0 - m_1|^2 + \operatorname{tr}\big(S_0 + S_1 - 2 (S_0^{1/2} S_1 S_0^{1/2})^{1/2}\big)

    Parameters
    ----------
    m0, m1 : array_like, shape (d,)
        Means.
    S0, S1 : array_like, shape (d, d)
        Covariances, possibly singular.

    Returns
    -------
    Tensor, shape ()
        In the units of the means.

    Raises
    ------
    scidyn.errors.DataError
        If a covariance is not symmetric positive semi-definite.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import bures_wasserstein
    >>> bures_wasserstein(torch.zeros(1), torch.eye(1), torch.tensor([3.0]), 25.0 * torch.eye(1))
    tensor(5.)

    References
    ----------
    D. C. Dowson, B. V. Landau (1982), The Fréchet distance between multivariate normal distributions,
    J. Multivariate Anal. 12.
    """
    m0, S0, m1, S1 = _pair(m0, S0, m1, S1)
    root = _power(S0, 0.5)
    # the trace of the root is the sum of the roots of the eigenvalues
    cross = torch.linalg.eigvalsh(root @ S1 @ root).clamp_min(0.0).sqrt().sum()
    squared = (m0 - m1).square().sum() + S0.trace() + S1.trace() - 2.0 * cross
    return squared.clamp_min(0.0).sqrt()


def gaussian_map(m0: Any, S0: Any, m1: Any, S1: Any) -> tuple[Tensor, Tensor]:
    """Give the optimal map ``x -> A x + c`` between two Gaussian laws.

    ``A = S0^{-1/2} (S0^{1/2} S1 S0^{1/2})^{1/2} S0^{-1/2}`` and ``c = m1 - A m0``.

    Parameters
    ----------
    m0, m1 : array_like, shape (d,)
        Means.
    S0, S1 : array_like, shape (d, d)
        Covariances; ``S0`` must be invertible.

    Returns
    -------
    tuple of Tensor
        A (d, d), symmetric, and c (d,).

    Raises
    ------
    scidyn.errors.DataError
        If ``S0`` is singular.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import gaussian_map
    >>> gaussian_map(torch.zeros(1), torch.eye(1), torch.ones(1), 4.0 * torch.eye(1))
    (tensor([[2.]]), tensor([1.]))
    """
    m0, S0, m1, S1 = _pair(m0, S0, m1, S1)
    _invertible("the first law", S0)
    root, back = _power(S0, 0.5), _power(S0, -0.5)
    A = back @ _power(root @ S1 @ root, 0.5) @ back
    return A, m1 - A @ m0


def _invertible(name: str, S: Tensor) -> None:
    values = torch.linalg.eigvalsh(S.detach())
    if bool(values[0] <= torch.finfo(S.dtype).eps * values[-1]):
        raise DataError(f"the covariance of {name} is singular; add a small multiple of the identity.")


@dataclass(frozen=True)
class GaussianBridge:
    r"""The Schrödinger bridge between two Gaussian laws, for Brownian motion of diffusion σ over a time T.

    .. math::

        D = (4 S_0^{1/2} S_1 S_0^{1/2} + s^2 I)^{1/2}, \quad
        C = \tfrac12 (S_0^{1/2} D S_0^{-1/2} - s I), \quad s = \sigma^2 T

    with C = Cov(X0, X1). Between the ends, with u = t / T,

    .. math:: S_t = (1-u)^2 S_0 + u^2 S_1 + u(1-u)(C + C^\top + s I).

    Parameters
    ----------
    m0, m1 : Tensor, shape (d,)
        Means at the two ends.
    S0, S1 : Tensor, shape (d, d)
        Covariances at the two ends, invertible.
    sigma : float
        Diffusion > 0, state per root of time.
    duration : float
        T > 0.

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import GaussianBridge
    >>> bridge = GaussianBridge(torch.zeros(1), torch.eye(1), torch.tensor([2.0]), 0.25 * torch.eye(1), sigma=1.0)
    >>> round(bridge.cross_covariance.item(), 6), round(bridge.covariance(0.5).item(), 6)
    (0.207107, 0.666053)

    References
    ----------
    C. Bunne, Y.-P. Hsieh, M. Cuturi, A. Krause (2023), The Schrödinger bridge between Gaussian measures has a
    closed form, AISTATS.
    """

    m0: Tensor
    S0: Tensor
    m1: Tensor
    S1: Tensor
    sigma: float
    duration: float = 1.0

    def __post_init__(self) -> None:
        _pair(self.m0, self.S0, self.m1, self.S1)
        number("sigma", self.sigma, above=0.0)
        number("duration", self.duration, above=0.0)
        for name, S in (("the first law", self.S0), ("the second law", self.S1)):
            _invertible(name, S)

    @property
    def _spread(self) -> float:
        return self.sigma**2 * self.duration

    @property
    def cross_covariance(self) -> Tensor:
        """Cov(X0, X1), shape (d, d); the transposed is Cov(X1, X0)."""
        root, back = _power(self.S0, 0.5), _power(self.S0, -0.5)
        eye = torch.eye(len(self.m0), dtype=self.S0.dtype, device=self.S0.device)
        D = _power(4.0 * root @ self.S1 @ root + self._spread**2 * eye, 0.5)
        return 0.5 * (root @ D @ back - self._spread * eye)

    def _share(self, t: float) -> float:
        return number("t", t, at_least=0.0, at_most=self.duration) / self.duration

    def mean(self, t: float) -> Tensor:
        """Mean at time t, shape (d,)."""
        u = self._share(t)
        return (1.0 - u) * self.m0 + u * self.m1

    def covariance(self, t: float) -> Tensor:
        """Covariance at time t, shape (d, d)."""
        u, C = self._share(t), self.cross_covariance
        eye = torch.eye(len(self.m0), dtype=self.S0.dtype, device=self.S0.device)
        bridge = C + C.mT + self._spread * eye
        return (1.0 - u) ** 2 * self.S0 + u**2 * self.S1 + u * (1.0 - u) * bridge

    def drift(self, t: float, x: Tensor) -> Tensor:
        """Forward drift at time t < T and the states x of shape (n, d)."""
        u, C, s = self._share(t), self.cross_covariance, self._spread
        if u == 1.0:
            raise OptionError("the drift is defined before the last time only; got t = duration.")
        eye = torch.eye(len(self.m0), dtype=self.S0.dtype, device=self.S0.device)
        # Cov(X1, X_t) - Cov(X_t, X_t), divided by the remaining time, is what pulls X_t towards E[X1 | X_t]
        pull = u * self.S1 + (1.0 - u) * C.mT - (1.0 - u) * self.S0 - u * C - u * s * eye
        slope = torch.linalg.solve(self.covariance(t), pull.mT).mT
        return ((self.m1 - self.m0) + (x - self.mean(t)) @ slope.mT) / self.duration


def gaussian_sinkhorn(m0: Any, S0: Any, m1: Any, S1: Any, epsilon: float) -> tuple[Tensor, Tensor]:
    """Entropic transport of two Gaussian laws for the cost ``|x - y|²``: its value and Cov(X0, X1).

    The plan is Gaussian; its cross-covariance C is that of :class:`GaussianBridge` with ``σ² T = ε / 2``, and::

        value = |m0 - m1|² + tr(S0 + S1 - 2 C) - ε/2 log det(I - S0⁻¹ C S1⁻¹ Cᵀ)

    Parameters
    ----------
    m0, m1 : array_like, shape (d,)
        Means.
    S0, S1 : array_like, shape (d, d)
        Covariances, invertible.
    epsilon : float
        Regularisation > 0: the factor of KL(π | μ0⊗μ1).

    Returns
    -------
    tuple of Tensor
        Value () and cross-covariance (d, d).

    Examples
    --------
    >>> import torch
    >>> from scidyn.transport import gaussian_sinkhorn
    >>> one = torch.eye(1, dtype=torch.float64)
    >>> value, C = gaussian_sinkhorn(torch.zeros(1).double(), one, torch.ones(1).double(), one, epsilon=2.0)
    >>> round(C.item(), 6)                                    # (√5 - 1) / 2
    0.618034

    References
    ----------
    H. Janati, B. Muzellec, G. Peyré, M. Cuturi (2020), Entropic optimal transport between unbalanced Gaussian
    measures has a closed form, NeurIPS.
    """
    m0, S0, m1, S1 = _pair(m0, S0, m1, S1)
    epsilon = number("epsilon", epsilon, above=0.0)
    C = GaussianBridge(m0, S0, m1, S1, sigma=(epsilon / 2.0) ** 0.5).cross_covariance
    dependence = torch.linalg.solve(S0, C) @ torch.linalg.solve(S1, C.mT)
    eye = torch.eye(len(m0), dtype=S0.dtype, device=S0.device)
    cost = (m0 - m1).square().sum() + S0.trace() + S1.trace() - 2.0 * C.trace()
    return cost - 0.5 * epsilon * torch.logdet(eye - dependence), C
