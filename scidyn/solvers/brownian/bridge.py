"""Splitting a step of a Brownian path at any point, given what is known of it as a whole."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise

__all__ = ["Split", "left_part", "remainder", "split_coefficients"]

Split = tuple[list[list[Any]], list[list[Any]]]


def _sqrt(x: Any) -> Any:
    """Square root of a float or a tensor."""
    return x.sqrt() if isinstance(x, Tensor) else math.sqrt(x)


def split_coefficients(p: Any, levels: int) -> Split:
    """Give G and F such that the part of relative length ``p`` is ``G z + √h F n``.

    ``z`` holds W (, H (, K)) of the whole step of length h, ``n`` standard normals. With one or
    two levels in closed form (Foster 2020, theorem 6.1.4); with three by conditioning the six
    independent Gaussians of the two parts on their sums. ``p`` is a float or a tensor.
    """
    q = 1.0 - p
    if levels == 1:
        return [[p]], [[_sqrt(p * q)]]
    if levels == 2:
        d = _sqrt(p**3 + q**3)
        root = _sqrt(p * q) / (2.0 * d)
        alpha, beta = p**3 * root, q**3 * root
        c = _sqrt(3.0 * p**3 * q**3) / (6.0 * d)
        return [[p, 6.0 * p * q], [0.0, p * p]], [[2.0 * (alpha + beta), 0.0], [-alpha / p, c / p]]
    return _three_levels(p, q)


def _three_levels(p: Any, q: Any) -> Split:
    """Condition (W1, H1, K1, W2, H2, K2) on (W, H, K), in double precision."""
    left = torch.as_tensor(p, dtype=torch.float64)
    right = torch.as_tensor(q, dtype=torch.float64).to(left.device)
    zero, one = torch.zeros_like(left), torch.ones_like(left)
    e = (right - left) / 12
    rows = [
        [one, zero, zero, one, zero, zero],
        [right / 2, left, zero, -left / 2, right, zero],
        [e * right, left * right / 2, left**2, -e * left, -left * right / 2, right**2],
    ]
    M = torch.stack([torch.stack(r, dim=-1) for r in rows], dim=-2)
    scale = torch.tensor([1.0, 1 / 12, 1 / 720], dtype=torch.float64, device=left.device)
    prior = torch.cat([left.unsqueeze(-1) * scale, right.unsqueeze(-1) * scale], dim=-1)
    spread = prior.unsqueeze(-1) * M.transpose(-1, -2)
    gain = torch.linalg.solve(M @ spread, spread.transpose(-1, -2)).transpose(-1, -2)
    covariance = torch.diag_embed(prior) - gain @ spread.transpose(-1, -2)
    factor = torch.linalg.cholesky_ex(covariance[..., :3, :3])[0]
    if left.ndim == 0:
        return gain[:3].tolist(), factor.tolist()
    entries = range(3)
    return (
        [[gain[..., i, j] for j in entries] for i in entries],
        [[factor[..., i, j] for j in entries] for i in entries],
    )


def left_part(whole: Noise, split: Split, scale: Any, normals: list[Tensor]) -> Noise:
    """Sample the first part of a step; ``scale`` is the root of the step's length."""
    gain, factor = split
    known = [x for x in whole if x is not None]
    parts: list[Tensor] = []
    for i in range(len(known)):
        part = known[i] * gain[i][i]
        for j in range(len(known)):
            if j != i and _present(gain[i][j]):
                part = _add(part, known[j], gain[i][j])
            if j <= i and _present(factor[i][j]):
                part = _add(part, normals[j], scale * factor[i][j])
        parts.append(part)
    return Noise(*parts)


def _present(coefficient: Any) -> bool:
    """False for a coefficient that is zero by construction."""
    return isinstance(coefficient, Tensor) or coefficient != 0.0


def _add(x: Tensor, y: Tensor, factor: Any) -> Tensor:
    """``x + factor y``, in place on ``x``, which the caller owns."""
    if isinstance(factor, Tensor):
        return x.addcmul_(y, factor.to(x.dtype).expand_as(x))
    return x.add_(y, alpha=factor)


def remainder(whole: Noise, first: Noise, p: Any) -> Noise:
    """Give the second part of a step from the whole and the first part of relative length ``p``."""
    q = 1.0 - p
    W = whole.W - first.W
    if whole.H is None or first.H is None:
        return Noise(W)
    gap = q * first.W - p * W
    H = (whole.H - p * first.H - 0.5 * gap) / q
    if whole.K is None or first.K is None:
        return Noise(W, H)
    K = (whole.K - p * p * first.K - 0.5 * p * q * (first.H - H) - (q - p) / 12 * gap) / (q * q)
    return Noise(W, H, K)
