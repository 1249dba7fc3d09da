"""Standard errors of refined parameters: the sandwich of curvature and cell-to-cell variation."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from scidyn.bridges.piecewise import PiecewiseBridge
from scidyn.bridges.refine_pairs import neighbours

__all__ = ["standard_errors"]


def standard_errors(state: PiecewiseBridge) -> np.ndarray:
    """Standard errors of θ as an M-estimator of the snapshots' laws.

    ``L(θ) = Σ_k KL(π_k ‖ a_k ⊗ p_θ)`` is a function of the empirical laws; its first variation at a
    cell is the sum of the two potentials that meet there. With ``u`` the derivative of that sum
    with respect to θ and ``H`` the second derivative of ``L``, ::

        Cov θ ≈ H⁻¹ (Σ_k n_k⁻² Σ_i u_i u_iᵀ) H⁻¹.

    Cells are taken as independent draws and σ as known. A parameter on a bound gets NaN.

    Parameters
    ----------
    state : PiecewiseBridge
        The bridge at the estimate.

    Returns
    -------
    ndarray, shape (parameter,)
    """
    sides = neighbours(state, fraction=1e-2)
    free = [q for q, (up, down, _) in enumerate(sides) if up[q] > state.theta[q] > down[q]]
    p = len(free)
    out = np.full(len(sides), np.nan)
    if not p:
        return out
    influence, hessian = [], torch.zeros(p, p, dtype=torch.float64)
    solved = {}

    def value(shift: dict[int, int]) -> float:
        theta = state.theta.clone()
        for q, sign in shift.items():
            theta[q] += sign * sides[q][2] / 2
        bridge = PiecewiseBridge.solve(state.snapshots, state.family, theta, state.noise, previous=state)
        solved[tuple(shift.items())] = bridge
        return bridge.value

    for a, q in enumerate(free):
        width = sides[q][2]
        up, down = value({q: 1}), value({q: -1})
        hessian[a, a] = (up - 2 * state.value + down) / (width / 2) ** 2
        influence.append(_influence(solved[((q, 1),)], solved[((q, -1),)], width))
    for a, q in enumerate(free):
        for b in range(a):
            r = free[b]
            mixed = value({q: 1, r: 1}) - value({q: 1, r: -1}) - value({q: -1, r: 1}) + value({q: -1, r: -1})
            hessian[a, b] = hessian[b, a] = mixed / (sides[q][2] * sides[r][2])
    u = torch.stack(influence, dim=1)
    count = torch.repeat_interleave(
        torch.tensor(state.snapshots.sizes, dtype=u.dtype), torch.tensor(state.snapshots.sizes)
    )
    meat = (u / count.unsqueeze(1)).mT @ (u / count.unsqueeze(1))
    bread = torch.linalg.pinv(hessian, hermitian=True)
    out[free] = (bread @ meat @ bread).diagonal().clamp_min(0.0).sqrt().numpy()
    return out


def _influence(up: PiecewiseBridge, down: PiecewiseBridge, width: float) -> Tensor:
    """Derivative along one parameter of the two potentials that meet at each cell, centred per snapshot."""
    parts = [torch.zeros(n, dtype=torch.float64) for n in up.snapshots.sizes]
    for k, (a, b) in enumerate(zip(up.couplings, down.couplings, strict=True)):
        parts[k] = parts[k] + (a.f - b.f) / width
        parts[k + 1] = parts[k + 1] + (a.g - b.g) / width
    return torch.cat([part - part.mean() for part in parts])
