"""Linear-noise bridges: the transition of a nonlinear reference as a normal law around its own flow."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.bridges.family import Family
from scidyn.errors import FitError, SolverError

__all__ = ["Moments", "Noise", "log_kernel", "moments"]

Noise = Callable[[Tensor], Tensor]
"""Diagonal diffusion ``σ(x)``: states ``(n, d)`` to ``(n, d)``, state/√time."""


class Moments(NamedTuple):
    """Flow, propagator and covariance from each start, on a grid of its interval.

    Attributes
    ----------
    mean : Tensor, shape (n, grid, d)
        ``ṁ = b(t, m)``.
    propagator : Tensor, shape (n, grid, d, d)
        ``Φ̇ = J Φ``.
    cov : Tensor, shape (n, grid, d, d)
        ``Ṡ = J S + S Jᵀ + σσᵀ``.
    """

    mean: Tensor
    propagator: Tensor
    cov: Tensor


def moments(
    family: Family, theta: Tensor, noise: Noise, x: Tensor, start: Tensor, span: Tensor, grid: Tensor
) -> Moments:
    """Solve the moment equations from every row of ``x``, each over its own interval.

    Parameters
    ----------
    family : Family
        Drift.
    theta : Tensor, shape (parameter,)
        Its parameters.
    noise : callable
        Diagonal diffusion.
    x : Tensor, shape (n, d)
        Starts.
    start, span : Tensor, shape (n,)
        First time and length of each row's interval.
    grid : Tensor, shape (grid,)
        Increasing fractions of the interval, from 0.

    Returns
    -------
    Moments

    Raises
    ------
    scidyn.errors.FitError
        If the reference's flow leaves the finite numbers.
    """
    from scidyn.solvers import solve_ode

    n, d = x.shape

    def rate(fraction: Tensor, y: Tensor) -> Tensor:
        m, phi, s = _split(y, d)
        b, J = family.jacobian_x(start + span * fraction, m, theta)
        js = J @ s
        ds = js + js.mT + torch.diag_embed(noise(m) ** 2)
        whole = torch.cat([b, (J @ phi).reshape(n, -1), ds.reshape(n, -1)], dim=1)
        return whole * span.unsqueeze(1)

    eye = torch.eye(d, dtype=x.dtype, device=x.device).expand(n, d, d).reshape(n, -1)
    y0 = torch.cat([x, eye, torch.zeros_like(eye)], dim=1)
    try:
        with torch.no_grad():
            y = solve_ode(rate, y0, grid, adjoint=None, rtol=1e-6, atol=1e-9).y
    except SolverError as error:
        named = ", ".join(f"{k}={v:.4g}" for k, v in zip(family.names, theta.tolist(), strict=True))
        raise FitError(f"The reference cannot be integrated between two snapshots at {named}: {error}") from error
    return Moments(*_split(y, d))


def _split(y: Tensor, d: int) -> tuple[Tensor, Tensor, Tensor]:
    shape = (*y.shape[:-1], d, d)
    return y[..., :d], y[..., d : d + d * d].reshape(shape), y[..., d + d * d :].reshape(shape)


def log_kernel(mean: Tensor, cov: Tensor, y: Tensor) -> Tensor:
    """Log density of every target under every start's normal law.

    Parameters
    ----------
    mean : Tensor, shape (n, d)
        Means.
    cov : Tensor, shape (n, d, d)
        Covariances.
    y : Tensor, shape (m, d)
        Targets.

    Returns
    -------
    Tensor, shape (n, m)
    """
    d = mean.shape[1]
    factor = _factor(cov)
    gap = (y.unsqueeze(0) - mean.unsqueeze(1)).mT
    white = torch.linalg.solve_triangular(factor, gap, upper=False)
    log_det = 2 * torch.log(factor.diagonal(dim1=1, dim2=2)).sum(dim=1)
    constant = d * torch.log(torch.tensor(2 * torch.pi, dtype=mean.dtype, device=mean.device))
    return -0.5 * (white.square().sum(dim=1) + log_det.unsqueeze(1) + constant)


def _factor(cov: Tensor) -> Tensor:
    """Cholesky factors; a direction without noise is named rather than patched."""
    factor, info = torch.linalg.cholesky_ex((cov + cov.mT) / 2)
    if bool((info > 0).any()):
        raise FitError(
            "The reference's transition has no noise in some direction, so snapshots cannot be joined; "
            "give a larger sigma in every feature."
        )
    return factor


def conditional(m: Moments, where: int, ends: Tensor) -> tuple[Tensor, Tensor]:
    """Mean and covariance at grid point ``where`` given the end of each row.

    Parameters
    ----------
    m : Moments
        Of the drawn starts.
    where : int
        Grid point; the last one is the end.
    ends : Tensor, shape (n, d)
        States at the end.

    Returns
    -------
    tuple of Tensor, shapes (n, d) and (n, d, d)
    """
    S, S_T = m.cov[:, where], m.cov[:, -1]
    to_end = _to_end(m, where)
    gain = torch.linalg.solve(S_T, to_end @ S).mT
    mean = m.mean[:, where] + (gain @ (ends - m.mean[:, -1]).unsqueeze(2)).squeeze(2)
    cov = S - gain @ to_end @ S
    return mean, (cov + cov.mT) / 2


def _to_end(m: Moments, where: int) -> Tensor:
    """``Φ(T, t)`` from ``Φ(T, 0) Φ(t, 0)^{-1}``."""
    return torch.linalg.solve(m.propagator[:, where].mT, m.propagator[:, -1].mT).mT


def draw_paths(m: Moments, ends: Tensor, generator: torch.Generator) -> Tensor:
    """One path per row, from its start to the given end, on the whole grid.

    The deviation from the flow is simulated freely, then bent to the end:
    ``X_t = m_t + e_t + S_t Φ(T,t)ᵀ S_T^{-1} (x_T − m_T − e_T)``.

    Parameters
    ----------
    m : Moments
        Of the drawn starts.
    ends : Tensor, shape (n, d)
        States at the end.
    generator : torch.Generator
        Source of the noise.

    Returns
    -------
    Tensor, shape (n, grid, d)
    """
    n, count, d = m.mean.shape
    z = torch.randn(n, count, d, 1, generator=generator, dtype=m.mean.dtype).to(m.mean.device)
    e = [torch.zeros_like(m.mean[:, 0]).unsqueeze(2)]
    for k in range(count - 1):
        F, Q = _step(m, k)
        e.append(F @ e[-1] + _root(Q) @ z[:, k])
    bend = torch.linalg.solve(m.cov[:, -1], (ends - m.mean[:, -1]).unsqueeze(2) - e[-1])
    rows = [m.mean[:, k].unsqueeze(2) + e[k] + m.cov[:, k] @ _to_end(m, k).mT @ bend for k in range(count)]
    return torch.stack(rows, dim=1).squeeze(3)


def expected_step(m: Moments, k: int, x: Tensor, ends: Tensor) -> Tensor:
    """``E[X_{k+1} | X_k = x, X_T = ends]`` of the linearised bridge, shape ``(n, d)``."""
    F, Q = _step(m, k)
    here = _to_end(m, k)
    left = m.cov[:, -1] - here @ m.cov[:, k] @ here.mT
    e = (x - m.mean[:, k]).unsqueeze(2)
    miss = (ends - m.mean[:, -1]).unsqueeze(2) - here @ e
    pull = Q @ _to_end(m, k + 1).mT @ torch.linalg.solve(left, miss)
    return (m.mean[:, k + 1].unsqueeze(2) + F @ e + pull).squeeze(2)


def _step(m: Moments, k: int) -> tuple[Tensor, Tensor]:
    F = torch.linalg.solve(m.propagator[:, k].mT, m.propagator[:, k + 1].mT).mT
    Q = m.cov[:, k + 1] - F @ m.cov[:, k] @ F.mT
    return F, (Q + Q.mT) / 2


def _root(Q: Tensor) -> Tensor:
    """A square root that tolerates directions without noise."""
    values, vectors = torch.linalg.eigh(Q)
    return vectors * values.clamp_min(0.0).sqrt().unsqueeze(1)
