"""Stochastic Runge–Kutta methods on the increment W and the space-time area H.

Stages are ``z_j = y + h Σ a_ji f_i + Σ (W aW_ji + H aH_ji) g_i``. Coefficients: Foster, Dos Reis,
Strange (2024), High order splitting methods for SDEs satisfying a commutativity condition, for
ShARK and SPaRK; Rößler (2010) for SRA1; Foster (2020) for the shifted Euler method SEA.
"""

from __future__ import annotations

import math

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.elementary import Memoryless
from scidyn.solvers.sde.methods.stepper import ALL, BOTH, STRATONOVICH, Advance, Carry, Description
from scidyn.solvers.sde.terms import Terms

__all__ = ["SEA", "SRA1", "GeneralShARK", "SPaRK", "ShARK"]

ADDITIVE = frozenset({"additive"})


class SEA(Memoryless):
    """Shifted Euler for additive noise: strong order 1 with a smaller constant than Euler's."""

    about = Description("sea", BOTH, ADDITIVE, "WH", 1.0, 1.0)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        g = terms.g(t, y)
        z = terms.move(y, g, noise.h.add(noise.W, alpha=0.5))
        return Advance(_additive(terms, t, h, y.add(terms.f(t, z), alpha=h), g, noise))


def _additive(terms: Terms, t: Tensor, h: float, drifted: Tensor, g: Tensor, noise: Noise) -> Tensor:
    """Add ``∫ g(s) dW`` for ``g`` linear in time: ``g0 W + (g1 - g0) (W / 2 - H)``."""
    later = terms.g(t + h, drifted)
    half = (0.5 * noise.W).sub(noise.h)
    return terms.move(terms.move(drifted, g, noise.W - half), later, half)


class SRA1(Memoryless):
    """Rößler's two-stage method for additive noise: strong order 3/2, weak order 2."""

    about = Description("sra1", BOTH, ADDITIVE, "WH", 1.5, 2.0, estimate=True)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        f1, g = terms.f(t, y), terms.g(t, y)
        z = terms.move(y.add(f1, alpha=0.75 * h), g, (0.75 * noise.W).add(noise.h, alpha=1.5))
        f2 = terms.f(t + 0.75 * h, z)
        drifted = y.add(f1, alpha=h / 3).add(f2, alpha=2 * h / 3)
        return Advance(_additive(terms, t, h, drifted, g, noise), (), (f2 - f1) * (2 * h / 3))


class ShARK(Memoryless):
    """Shifted additive-noise Runge–Kutta: strong order 3/2, weak order 2, smaller errors than SRA1."""

    about = Description("shark", BOTH, ADDITIVE, "WH", 1.5, 2.0, estimate=True)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        g = terms.g(t, y)
        shifted = terms.move(y, g, noise.h)
        f1 = terms.f(t, shifted)
        z = terms.move(shifted.add(f1, alpha=h * 5 / 6), g, noise.W, 5 / 6)
        f2 = terms.f(t + h * (5 / 6), z)
        drifted = y.add(f1, alpha=0.4 * h).add(f2, alpha=0.6 * h)
        return Advance(_additive(terms, t, h, drifted, g, noise), (), (f2 - f1) * (0.6 * h))


class GeneralShARK(Memoryless):
    """ShARK for any Stratonovich noise: order 1/2, 1 if the noise commutes, 3/2 if it is additive."""

    about = Description("general_shark", STRATONOVICH, ALL, "WH", 1.0, 1.0)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        shifted = terms.move(y, terms.g(t, y), noise.h)
        f2, g2 = terms.f(t, shifted), terms.g(t, shifted)
        z = terms.move(shifted.add(f2, alpha=h * 5 / 6), g2, noise.W, 5 / 6)
        time = t + h * (5 / 6)
        f3, g3 = terms.f(time, z), terms.g(time, z)
        early = (0.4 * noise.W).add(noise.h, alpha=1.2)
        late = (0.6 * noise.W).sub(noise.h, alpha=1.2)
        drifted = y.add(f2, alpha=0.4 * h).add(f3, alpha=0.6 * h)
        return Advance(terms.move(terms.move(drifted, g2, early), g3, late))


X1, X2 = (3.0 - math.sqrt(3.0)) / 6.0, math.sqrt(3.0) / 3.0


class SPaRK(Memoryless):
    """Splitting-path Runge–Kutta for any Stratonovich noise, with an error estimate."""

    about = Description("spark", STRATONOVICH, ALL, "WH", 1.0, 1.0, estimate=True)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        W, H = noise.W, noise.h
        f1, g1 = terms.f(t, y), terms.g(t, y)
        z2 = terms.move(y.add(f1, alpha=0.5 * h), g1, (0.5 * W).add(H, alpha=math.sqrt(3.0)))
        f2, g2 = terms.f(t + 0.5 * h, z2), terms.g(t + 0.5 * h, z2)
        z3 = terms.move(y.add(f2, alpha=h), g2, W)
        f3, g3 = terms.f(t + h, z3), terms.g(t + h, z3)
        drift = f1.add(f3).mul(X1).add(f2, alpha=X2)
        y1 = terms.move(y.add(drift, alpha=h), g1, (X1 * W).add(H))
        y1 = terms.move(terms.move(y1, g2, W, X2), g3, (X1 * W).sub(H))
        if not terms.estimating:
            return Advance(y1)
        middle_f, middle_g = f2.sub(f1.add(f3), alpha=0.5), g2.sub(g1.add(g3), alpha=0.5)
        err = terms.move(middle_f * (X2 * h), middle_g, W, X2)
        return Advance(y1, (), terms.move(terms.move(err, g1, H), g3, H, -1.0))
