"""Itô methods: Euler–Maruyama, Milstein, Rößler's SRIW1, and Platen's of weak order two."""

from __future__ import annotations

import math

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.method import Carry, Method, Outcome
from scidyn.solvers.sde.terms import Terms

__all__ = ["EULER", "MILSTEIN", "MILSTEIN_FREE", "SRIW1", "WEAK2"]

ALL = ("diagonal", "additive", "scalar", "general")
SINGLE = ("diagonal", "additive", "scalar")


def _euler(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """``y + h f + g W``."""
    f, g = terms.f(ts[0], y), terms.g(ts[0], y)
    return terms.add(y, g, noise[0]).add_(f, alpha=h), carry, None


EULER = Method("euler_maruyama", _euler, ("ito",), ALL, "W", 0.5, 1.0)


def _iterated(noise: Noise, h: Tensor) -> tuple[Tensor, ...]:
    """W and ``W² - h``, twice the iterated Itô integral."""
    return noise.W, noise.W.square().sub_(h)


def _milstein(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """``y + h f + g W + ½ g g' (W² - h)``, the derivative by forward mode."""
    along = terms.g(ts[0], y)
    g, slope = terms.derivative(ts[0], y, along.squeeze(-1) if terms.matrix else along)
    y1 = terms.add(y, g, noise[0]).add_(terms.f(ts[0], y), alpha=h)
    return terms.add(y1, slope, noise[1], 0.5), carry, None


MILSTEIN = Method("milstein", _milstein, ("ito",), SINGLE, "W", 1.0, 1.0, derive=_iterated)


def _milstein_free(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Milstein with ``g g'`` from a difference along g over the length √h."""
    root = math.sqrt(h) if h > 0 else 1.0
    f, g = terms.f(ts[0], y), terms.g(ts[0], y)
    probe = (y + f * h).add_(g.squeeze(-1) if terms.matrix else g, alpha=root)
    slope = terms.g(ts[0], probe) - g
    return terms.add(terms.add(y, g, noise[0]).add_(f, alpha=h), slope, noise[1], 0.5 / root), carry, None


MILSTEIN_FREE = Method("milstein_free", _milstein_free, ("ito",), SINGLE, "W", 1.0, 1.0, derive=_iterated)


def _sriw1_weights(noise: Noise, h: Tensor) -> tuple[Tensor, ...]:
    """Coefficients of the four diffusion stages, and ``I10 / h``, for a block of steps."""
    if noise.H is None:
        return (noise.W,)
    W, root = noise.W, h.sqrt()
    i11 = (W.square() - h) / (2.0 * root)
    i10 = 0.5 * W + noise.H
    i111 = (W.square() - 3.0 * h) * W / (6.0 * h)
    low = 4.0 / 3.0 * (W + i11 - i10)
    return (
        i10,
        -W - i11 + 2.0 * i10 - 2.0 * i111,
        low + 5.0 / 3.0 * i111,
        (2.0 * W - i11 - 2.0 * i10 - 2.0 * i111) / 3.0,
        i111,
    )


def _sriw1(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Four diffusion and two drift stages; Rößler's SRI1W1."""
    i10, w1, w2, w3, w4 = noise
    root = math.sqrt(h) if h > 0 else 0.0
    t0, quarter, late, end = ts
    f1, g1 = terms.f(t0, y), terms.g(t0, y)

    def moved(drift: float, *parts: tuple[float, Tensor]) -> Tensor:
        out = y.add(f1, alpha=drift * h)
        for weight, g in parts:
            out = out.add_(g.squeeze(-1) if terms.matrix else g, alpha=weight * root)
        return out

    g2 = terms.g(quarter, moved(0.25, (0.5, g1)))
    g3 = terms.g(end, moved(1.0, (-1.0, g1)))
    g4 = terms.g(quarter, moved(0.25, (-5.0, g1), (3.0, g2), (0.5, g3)))
    f2 = terms.f(late, terms.add(y, g1, i10, 1.5).add_(f1, alpha=0.75 * h))
    y1 = y.add(f1, alpha=h / 3.0).add_(f2, alpha=2.0 * h / 3.0)
    for g, w in ((g1, w1), (g2, w2), (g3, w3), (g4, w4)):
        y1 = terms.add(y1, g, w)
    # how far drift and diffusion change over the step, in the weights of the highest iterated integral
    error = terms.add((f2 - f1).mul_(2.0 * h / 3.0), g4 - g1, w4)
    return y1, carry, error


SRIW1 = Method(
    "sriw1",
    _sriw1,
    ("ito",),
    SINGLE,
    "WH",
    1.5,
    2.0,
    nodes=(0.0, 0.25, 0.75, 1.0),
    evaluations=2,
    embedded=True,
    derive=_sriw1_weights,
)


def _weak2(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Platen's explicit method of weak order two (Kloeden, Platen 1992, section 15.1)."""
    W, iterated = noise
    root = math.sqrt(h) if h > 0 else 1.0
    f, g = terms.f(ts[0], y), terms.g(ts[0], y)
    column = g.squeeze(-1) if terms.matrix else g
    base = y.add(f, alpha=h)
    up = terms.g(ts[1], base.add(column, alpha=root))
    down = terms.g(ts[1], base.sub(column, alpha=root))
    f1 = terms.f(ts[1], terms.add(base, g, W))
    y1 = y.add(f, alpha=0.5 * h).add_(f1, alpha=0.5 * h)
    y1 = terms.add(y1, up + down + 2.0 * g, W, 0.25)
    return terms.add(y1, up - down, iterated, 0.25 / root), carry, None


WEAK2 = Method("weak2", _weak2, ("ito",), SINGLE, "W", 1.0, 2.0, nodes=(0.0, 1.0), evaluations=2, derive=_iterated)
