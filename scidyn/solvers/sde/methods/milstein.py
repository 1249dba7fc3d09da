"""Milstein's method, with the derivative of the diffusion or with a difference in its place."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.elementary import Memoryless
from scidyn.solvers.sde.methods.stepper import ALL, BOTH, Advance, Carry, Description
from scidyn.solvers.sde.terms import Terms

__all__ = ["Milstein", "MilsteinDifference"]


class Milstein(Memoryless):
    """Euler's step plus ``½ g' g (W² - h)`` (Itô) or ``½ g' g W²`` (Stratonovich): strong order 1.

    With general noise the double integrals ``½ (W_j W_k - δ_jk h) + A_kj`` take the Lévy areas
    that stand in ``noise.K``'s place: see the driver, which draws them.
    """

    about = Description("milstein", BOTH, ALL, "W", 1.0, 1.0, area=True, componentwise=True)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        g, slope = terms.slope(t, y)
        moved = terms.move(y.add(terms.f(t, y), alpha=h), g, noise.W)
        ito = terms.calculus == "ito"
        if not terms.matrix:
            square = noise.W * noise.W
            return Advance(torch.addcmul(moved, slope, square - h if ito else square, value=0.5))
        W = noise.W
        double = 0.5 * W.unsqueeze(-1) * W.unsqueeze(-2)
        if ito:
            double = double - 0.5 * h * torch.eye(W.shape[-1], dtype=W.dtype, device=W.device)
        if noise.area is not None:  # (∂ g_j) g_k goes with ∫ W_k dW_j
            double = double + noise.area.transpose(-1, -2)
        return Advance(moved + torch.einsum("bdjk,bjk->bd", slope, double))


class MilsteinDifference(Memoryless):
    """Milstein's method with ``(g(y + f h + g √h) - g(y)) / √h`` in place of ``g' g``."""

    about = Description(
        "milstein_free", BOTH, frozenset({"diagonal", "additive", "scalar"}), "W", 1.0, 1.0, componentwise=True
    )

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        f, g, root = terms.f(t, y), terms.g(t, y), math.sqrt(h)
        drifted = y.add(f, alpha=h)
        base = drifted if terms.calculus == "ito" else y
        moved = base.add(g if not terms.matrix else g.sum(-1), alpha=root)
        change = terms.g(t, moved) - g
        square = noise.W * noise.W
        weight = square - h if terms.calculus == "ito" else square
        return Advance(terms.move(terms.move(drifted, g, noise.W), change, weight, 0.5 / root))
