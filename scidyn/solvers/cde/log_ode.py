"""The log-ODE step: flow along the Lie brackets that a window's log-signature weighs."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scidyn.solvers.sde.methods.method import Carry, Method, Outcome
from scidyn.solvers.sde.terms import Terms

__all__ = ["LOG_ODE"]


def _contract(g: Callable[[Tensor], Tensor], z: Tensor, levels: tuple[Tensor, ...]) -> Tensor:
    """The vector field ``Σ l_i f_i + Σ l_ij Df_j[f_i] + Σ l_ijk D(Df_k[f_j])[f_i]`` at ``z``."""
    fields = g(z)  # (B, H, C)
    out = torch.einsum("bhc,bc->bh", fields, levels[0])
    if len(levels) > 1:
        out = out + _second(g, z, levels[1])
    if len(levels) > 2:
        third = levels[2]
        for i in range(third.shape[1]):
            weights = third[:, i]

            def inner(state: Tensor, w: Tensor = weights) -> Tensor:
                return _second(g, state, w)

            out = out + torch.func.jvp(inner, (z,), (fields[..., i],))[1]
    return out


def _second(g: Callable[[Tensor], Tensor], z: Tensor, weights: Tensor) -> Tensor:
    """``Σ_ij w_ij Df_j(z)[f_i(z)]`` for weights (B, C, C)."""
    along = torch.einsum("bhi,bij->jbh", g(z), weights)
    total = torch.zeros_like(z)
    for j in range(weights.shape[-1]):

        def column(state: Tensor, j: int = j) -> Tensor:
            return g(state)[..., j]

        total = total + torch.func.jvp(column, (z,), (along[j],))[1]
    return total


def _step(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """One classical Runge–Kutta step over the unit interval of the window's flow."""

    def slope(t: Tensor, z: Tensor) -> Tensor:
        return _contract(lambda state: terms.g(t, state), z, noise)

    k1 = slope(ts[0], y)
    k2 = slope(ts[1], y + 0.5 * k1)
    k3 = slope(ts[1], y + 0.5 * k2)
    k4 = slope(ts[2], y + k3)
    return y + (k1 + 2.0 * (k2 + k3) + k4) / 6.0, carry, None


LOG_ODE = Method("log_ode", _step, ("stratonovich",), ("general",), "W", 1.0, 1.0, (0.0, 0.5, 1.0), 4)
