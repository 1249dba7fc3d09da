"""Rows of a plan from its potentials, and products with it, in tiles of rows."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.errors import ShapeError
from scidyn.transport.cost import tiles
from scidyn.transport.problem import Problem

__all__ = ["multiply", "plan_tile"]


def plan_tile(problem: Problem, phi: Tensor, psi: Tensor, rows: slice | Tensor) -> Tensor:
    """Rows of ``π_ij = a_i b_j exp(φ_i + ψ_j - C_ij / ε)``."""
    cost = problem.cost
    p, q = problem.offsets()
    tiny = torch.finfo(psi.dtype).tiny
    bias = (psi + problem.b.clamp_min(tiny).log() - q).to(cost.dtype)
    shift = (phi + problem.a.clamp_min(tiny).log() - p)[rows]
    out = torch.empty(len(shift), cost.shape[1], dtype=cost.dtype, device=cost.device)
    # both bounds are beyond any entry of a plan; between them no exponential is subnormal
    return (
        cost.fill(out, rows, bias, problem.epsilon).add_(shift.to(cost.dtype).unsqueeze(1)).clamp_(-86.0, 80.0).exp_()
    )


def multiply(problem: Problem, phi: Tensor, psi: Tensor, v: Tensor) -> Tensor:
    """``π v`` in tiles of rows."""
    n, m = problem.cost.shape
    if v.ndim not in (1, 2) or len(v) != m:
        raise ShapeError(f"v must have {m} rows, one per point of this side; got shape {tuple(v.shape)}.")
    v = v.detach().to(problem.cost.dtype)
    return torch.cat([plan_tile(problem, phi, psi, rows) @ v for rows in tiles(n, m)])
