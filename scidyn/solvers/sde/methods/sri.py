"""Rößler's strong order 3/2 method SRIW1 and Platen's weak order 2 method, both Itô."""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.elementary import Memoryless
from scidyn.solvers.sde.methods.stepper import ALL, ITO, Advance, Carry, Description
from scidyn.solvers.sde.terms import Terms

__all__ = ["SRIW1", "Platen"]


class SRIW1(Memoryless):
    """Strong order 3/2, weak order 2 for diagonal or scalar Itô noise.

    A. Rößler (2010), Runge–Kutta methods for the strong approximation of solutions of
    stochastic differential equations, table 2. Repeated integrals in terms of W and H:
    ``I_(1,1) = (W² - h) / 2``, ``I_(1,0) = h (W / 2 + H)``, ``I_(1,1,1) = (W³ - 3 h W) / 6``.
    """

    about = Description(
        "sriw1", ITO, frozenset({"diagonal", "additive", "scalar"}), "WH", 1.5, 2.0, estimate=True, componentwise=True
    )

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        W, root = noise.W, math.sqrt(h)
        double = (W * W).sub(h).mul(0.5 / root)
        mixed = noise.h.add(W, alpha=0.5)
        triple = W * (W * W).sub(3 * h).mul(1.0 / (6.0 * h))
        f1, g1 = terms.f(t, y), terms.g(t, y)
        kick = g1 if not terms.matrix else g1.sum(-1)
        f2 = terms.f(t + 0.75 * h, terms.move(y.add(f1, alpha=0.75 * h), g1, mixed, 1.5))
        g2 = terms.g(t + 0.25 * h, y.add(f1, alpha=0.25 * h).add(kick, alpha=0.5 * root))
        g3 = terms.g(t + h, y.add(f1, alpha=h).sub(kick, alpha=root))
        sums = torch.add(-5.0 * g1, g2, alpha=3.0).add(g3, alpha=0.5)
        sums = sums if not terms.matrix else sums.sum(-1)
        g4 = terms.g(t + 0.25 * h, y.add(f2, alpha=0.25 * h).add(sums, alpha=root))
        y1 = y.add(f1, alpha=h / 3).add(f2, alpha=2 * h / 3)
        error = 2.0 * mixed - 2.0 * triple, (5 / 3) * triple - (4 / 3) * mixed, (-2 / 3) * (mixed + triple)
        weights = (
            error[0] - W - double,
            torch.add(error[1], W + double, alpha=4 / 3),
            error[2] + (2 / 3) * W - double / 3,
            triple,
        )
        for g, weight in zip((g1, g2, g3, g4), weights, strict=True):
            y1 = terms.move(y1, g, weight)
        if not terms.estimating:
            return Advance(y1)
        err = (f2 - f1) * (h / 6)
        for g, weight in zip((g1, g2, g3, g4), (*error, triple), strict=True):
            err = terms.move(err, g, weight)
        return Advance(y1, (), err)


class Platen(Memoryless):
    """Platen's explicit method of weak order 2 for any Itô noise (Kloeden, Platen 1992, section 15.1).

    The two-point variables ``V_jk = ± h`` of general noise take their signs from H, which is
    independent of W.
    """

    about = Description("platen", ITO, ALL, "WH", 1.0, 2.0, componentwise=True)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        W, root = noise.W, math.sqrt(h)
        f, g = terms.f(t, y), terms.g(t, y)
        drifted = y.add(f, alpha=h)
        later = terms.f(t + h, terms.move(drifted, g, W))
        y1 = y.add(f + later, alpha=0.5 * h)
        square = (W * W).sub(h).div(root)
        if not terms.matrix:
            up, down = terms.g(t + h, drifted.add(g, alpha=root)), terms.g(t + h, drifted.sub(g, alpha=root))
            y1 = torch.addcmul(y1, up.add(down).add(g, alpha=2.0), W, value=0.25)
            return Advance(torch.addcmul(y1, up - down, square, value=0.25))
        return Advance(self._general(terms, t, h, y, drifted, y1, g, noise))

    def _general(
        self, terms: Terms, t: Tensor, h: float, y: Tensor, drifted: Tensor, y1: Tensor, g: Tensor, noise: Noise
    ) -> Tensor:
        """Add the noise of several channels."""
        W, root = noise.W, math.sqrt(h)
        signs = torch.where(noise.h >= 0, 1.0, -1.0).to(W.dtype)
        channels = range(g.shape[-1])
        for j in channels:
            step = g[..., j] * root
            w = W[:, j : j + 1]
            up, down = terms.g(t + h, drifted + step), terms.g(t + h, drifted - step)
            y1 = y1 + 0.25 * ((up + down)[..., j] + 2.0 * g[..., j]) * w
            y1 = y1 + 0.25 * (up - down)[..., j] * (w * w - h) / root
            if len(channels) == 1:
                continue
            up, down = terms.g(t + h, y + step), terms.g(t + h, y - step)
            for k in channels:
                if k != j:
                    other = W[:, k : k + 1]
                    area = signs[:, j : j + 1] * signs[:, k : k + 1] * (h if j < k else -h)
                    y1 = y1 + 0.25 * (up + down - 2.0 * g)[..., k] * other
                    y1 = y1 + 0.25 * (up - down)[..., k] * (w * other + area) / root
        return y1
