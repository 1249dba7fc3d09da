"""Slopes of cubic interpolants: backward differences and the natural spline."""

from __future__ import annotations

import torch
from torch import Tensor

__all__ = [
    "backward_slopes",
    "hermite_polynomial",
    "natural_slopes",
    "natural_slopes_through_gaps",
    "secants",
    "solve_tridiagonal",
]


def solve_tridiagonal(lower: Tensor, diagonal: Tensor, upper: Tensor, rhs: Tensor) -> Tensor:
    """Solve tridiagonal systems along the second to last axis by parallel cyclic reduction.

    ``lower[0]`` and ``upper[-1]`` must be zero. About log2(K) vectorised passes over the K
    unknowns; stable without pivoting for the diagonally dominant systems of splines.
    """
    length = rhs.shape[-2]
    stride = 1
    while stride < length:
        before = _shift(diagonal, stride, 1.0)
        after = _shift(diagonal, -stride, 1.0)
        alpha, gamma = -lower / before, -upper / after
        rhs = rhs + alpha * _shift(rhs, stride, 0.0) + gamma * _shift(rhs, -stride, 0.0)
        diagonal = diagonal + alpha * _shift(upper, stride, 0.0) + gamma * _shift(lower, -stride, 0.0)
        lower, upper = alpha * _shift(lower, stride, 0.0), gamma * _shift(upper, -stride, 0.0)
        stride *= 2
    return rhs / diagonal


def _shift(x: Tensor, by: int, fill: float) -> Tensor:
    """Move entries ``by`` places down the second to last axis; ``fill`` enters at the free end."""
    size = x.shape[-2]
    pad = x.new_full((*x.shape[:-2], min(abs(by), size), x.shape[-1]), fill)
    return torch.cat([pad, x[..., : size - by, :]] if by > 0 else [x[..., -by:, :], pad], dim=-2)


def backward_slopes(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right slopes of each interval (B, K-1, C) from differences with the previous knot only."""
    secant = secants(t, x)
    return torch.cat([secant[:, :1], secant[:, :-1]], dim=1), secant


def natural_slopes(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Left and right slopes of each interval of the natural cubic spline through ``x`` (B, K, C).

    Intervals of zero length (the padding of ragged rows) get slope zero and do not act on
    the others: their second derivative at both ends is zero, as at a natural end.
    """
    width = (t[:, 1:] - t[:, :-1]).unsqueeze(-1)
    secant = secants(t, x)
    h0, h1 = width[:, :-1], width[:, 1:]
    inner = (h0 > 0) & (h1 > 0)
    diagonal = torch.where(inner, 2 * (h0 + h1), torch.ones_like(h0))
    rhs = torch.where(inner, 6 * (secant[:, 1:] - secant[:, :-1]), torch.zeros_like(secant[:, 1:]))
    lower = torch.where(inner, h0, torch.zeros_like(h0))
    upper = torch.where(inner, h1, torch.zeros_like(h1))
    end = torch.zeros_like(x[:, :1])
    curvature = end
    if rhs.shape[1]:
        # the end values are zero, so the outermost couplings multiply zero and may be cut
        lower = torch.cat([torch.zeros_like(lower[:, :1]), lower[:, 1:]], dim=1)
        upper = torch.cat([upper[:, :-1], torch.zeros_like(upper[:, :1])], dim=1)
        curvature = torch.cat([end, solve_tridiagonal(lower, diagonal, upper, rhs)], dim=1)
    curvature = torch.cat([curvature, end], dim=1)
    m0, m1 = curvature[:, :-1], curvature[:, 1:]
    return secant - width * (2 * m0 + m1) / 6, secant + width * (m0 + 2 * m1) / 6


def hermite_polynomial(t: Tensor, x: Tensor, left: Tensor, right: Tensor) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Coefficients a, b, c, d of ``a + b s + c s² + d s³``, s = time since the interval's start."""
    width = (t[:, 1:] - t[:, :-1]).unsqueeze(-1)
    safe = torch.where(width > 0, width, torch.ones_like(width))
    secant = secants(t, x)
    c = (3 * secant - 2 * left - right) / safe
    d = (left + right - 2 * secant) / safe**2
    return x[:, :-1], left, c, d


def secants(t: Tensor, x: Tensor) -> Tensor:
    """Slopes of the chords; zero on intervals of zero length."""
    width = (t[:, 1:] - t[:, :-1]).unsqueeze(-1)
    wide = width > 0
    return torch.where(wide, (x[:, 1:] - x[:, :-1]) / torch.where(wide, width, torch.ones_like(width)), 0.0)


def natural_slopes_through_gaps(t: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Values and slopes (B, K, C) at all knots of natural splines through each channel's observed points.

    ``t`` is (B, K); the first and last entry of every channel must be observed.
    """
    rows, length, channels = x.shape
    flat = x.transpose(1, 2).reshape(rows * channels, length)
    time = t.unsqueeze(1).expand(rows, channels, length).reshape(rows * channels, length)
    known = ~torch.isnan(flat)
    # observed entries first, in order; the places behind them repeat the last one
    order = (~known).to(torch.uint8).argsort(dim=1, stable=True)
    final = known.sum(1, keepdim=True) - 1
    order = order.gather(1, torch.arange(length, device=x.device).expand_as(order).minimum(final))
    at, value = time.gather(1, order), flat.gather(1, order)
    left, right = natural_slopes(at, value.unsqueeze(-1))
    a, b, c, d = (k.squeeze(-1) for k in hermite_polynomial(at, value.unsqueeze(-1), left, right))
    interval = torch.searchsorted(at.detach().contiguous(), time.detach().contiguous(), right=True) - 1
    interval = interval.clamp_min(0).minimum((final - 1).clamp_min(0))
    a, b, c, d, start = (k.gather(1, interval) for k in (a, b, c, d, at))
    s = time - start
    values = a + s * (b + s * (c + s * d))
    slopes = b + s * (2 * c + 3 * s * d)
    shape = (rows, channels, length)
    return values.reshape(shape).transpose(1, 2), slopes.reshape(shape).transpose(1, 2)
