"""Stratonovich methods: Heun, Euler–Heun, midpoint, Milstein, SPaRK, general ShARK, reversible Heun."""

from __future__ import annotations

import math

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.method import Carry, Method, Outcome
from scidyn.solvers.sde.terms import Terms

__all__ = [
    "EULER_HEUN",
    "GENERAL_SHARK",
    "HEUN",
    "MIDPOINT",
    "MILSTEIN",
    "MILSTEIN_FREE",
    "REVERSIBLE_HEUN",
    "RK4",
    "SPARK",
]

ALL = ("diagonal", "additive", "scalar", "general")
SINGLE = ("diagonal", "additive", "scalar")
STRATONOVICH = ("stratonovich",)


def _heun(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Trapezoidal rule with an Euler predictor."""
    (W, *_) = noise
    f, g = terms.f(ts[0], y), terms.g(ts[0], y)
    guess = terms.add(y, g, W).add_(f, alpha=h)
    f1, g1 = terms.f(ts[1], guess), terms.g(ts[1], guess)
    return terms.add(y, g + g1, W, 0.5).add_(f + f1, alpha=0.5 * h), carry, None


HEUN = Method("heun", _heun, STRATONOVICH, ALL, "W", 0.5, 1.0, nodes=(0.0, 1.0), evaluations=2)


def _euler_heun(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Euler in the drift, trapezoidal in the diffusion."""
    (W, *_) = noise
    f, g = terms.f(ts[0], y), terms.g(ts[0], y)
    g1 = terms.g(ts[1], terms.add(y, g, W))
    return terms.add(y, g + g1, W, 0.5).add_(f, alpha=h), carry, None


EULER_HEUN = Method("euler_heun", _euler_heun, STRATONOVICH, ALL, "W", 0.5, 1.0, nodes=(0.0, 1.0))


def _midpoint(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Explicit midpoint rule."""
    (W, *_) = noise
    middle = terms.add(y, terms.g(ts[0], y), W, 0.5).add_(terms.f(ts[0], y), alpha=0.5 * h)
    return terms.add(y, terms.g(ts[1], middle), W).add_(terms.f(ts[1], middle), alpha=h), carry, None


MIDPOINT = Method("midpoint", _midpoint, STRATONOVICH, ALL, "W", 0.5, 1.0, nodes=(0.0, 0.5), evaluations=2)


def _rk4(terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry) -> Outcome:
    """The classical method along the straight path with the step's increment."""
    (W, *_) = noise

    def slope(t: Tensor, state: Tensor) -> Tensor:
        return terms.add(terms.f(t, state) * h, terms.g(t, state), W)

    k1 = slope(ts[0], y)
    k2 = slope(ts[1], y + 0.5 * k1)
    k3 = slope(ts[1], y + 0.5 * k2)
    k4 = slope(ts[2], y + k3)
    return y + (k1 + 2.0 * (k2 + k3) + k4) / 6.0, carry, None


RK4 = Method("rk4", _rk4, STRATONOVICH, ALL, "W", 0.5, 1.0, nodes=(0.0, 0.5, 1.0), evaluations=4)


def _square(noise: Noise, h: Tensor) -> tuple[Tensor, ...]:
    """W and W², twice the iterated Stratonovich integral."""
    return noise.W, noise.W.square()


def _milstein(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """``y + h f + g W + ½ g g' W²``, the derivative by forward mode."""
    along = terms.g(ts[0], y)
    g, slope = terms.derivative(ts[0], y, along.squeeze(-1) if terms.matrix else along)
    y1 = terms.add(y, g, noise[0]).add_(terms.f(ts[0], y), alpha=h)
    return terms.add(y1, slope, noise[1], 0.5), carry, None


MILSTEIN = Method("milstein", _milstein, STRATONOVICH, SINGLE, "W", 1.0, 1.0, derive=_square)


def _milstein_free(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Milstein with ``g g'`` from a difference along g over the length √h."""
    root = math.sqrt(h) if h > 0 else 1.0
    f, g = terms.f(ts[0], y), terms.g(ts[0], y)
    slope = terms.g(ts[0], y.add(g.squeeze(-1) if terms.matrix else g, alpha=root)) - g
    return terms.add(terms.add(y, g, noise[0]).add_(f, alpha=h), slope, noise[1], 0.5 / root), carry, None


MILSTEIN_FREE = Method("milstein_free", _milstein_free, STRATONOVICH, SINGLE, "W", 1.0, 1.0, derive=_square)

OUTER = (3.0 - math.sqrt(3.0)) / 6.0
INNER = math.sqrt(3.0) / 3.0


def _spark(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Splitting-path Runge–Kutta (Foster, dos Reis, Strange 2024), three stages with an error estimate."""
    W, H = noise[0], noise[1]
    start, middle, end = ts
    f1, g1 = terms.f(start, y), terms.g(start, y)
    z2 = terms.add(y, g1, 0.5 * W + math.sqrt(3.0) * H).add_(f1, alpha=0.5 * h)
    f2, g2 = terms.f(middle, z2), terms.g(middle, z2)
    z3 = terms.add(y, g2, W).add_(f2, alpha=h)
    f3, g3 = terms.f(end, z3), terms.g(end, z3)
    turn = terms.add(y, g1 - g3, H)
    y1 = terms.add(turn, OUTER * (g1 + g3) + INNER * g2, W)
    y1 = y1.add_(f1 + f3, alpha=OUTER * h).add_(f2, alpha=INNER * h)
    # minus the trapezoidal rule
    gap = INNER * g2 - 0.5 * INNER * (g1 + g3)
    error = terms.add(turn - y, gap, W).add_(INNER * f2 - 0.5 * INNER * (f1 + f3), alpha=h)
    return y1, carry, error


SPARK = Method(
    "spark",
    _spark,
    STRATONOVICH,
    ALL,
    "WH",
    0.5,
    1.0,
    nodes=(0.0, 0.5, 1.0),
    evaluations=3,
    embedded=True,
)


def _general_shark(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Shifted additive-noise Runge–Kutta for general noise: two drift, three diffusion stages."""
    W, H = noise[0], noise[1]
    g1 = terms.g(ts[0], y)
    z2 = terms.add(y, g1, H)
    f2, g2 = terms.f(ts[0], z2), terms.g(ts[0], z2)
    z3 = terms.add(z2, g2, W, 5.0 / 6.0).add_(f2, alpha=5.0 / 6.0 * h)
    f3, g3 = terms.f(ts[1], z3), terms.g(ts[1], z3)
    y1 = terms.add(terms.add(y, 0.4 * g2 + 0.6 * g3, W), g2 - g3, H, 1.2)
    return y1.add_(f2, alpha=0.4 * h).add_(f3, alpha=0.6 * h), carry, None


GENERAL_SHARK = Method(
    "general_shark", _general_shark, STRATONOVICH, ALL, "WH", 0.5, 1.0, nodes=(0.0, 5.0 / 6.0), evaluations=2
)


def _begin_reversible(terms: Terms, t: Tensor, y: Tensor) -> Carry:
    """The shadow state starts at the state."""
    return y, terms.f(t, y), terms.g(t, y)


def _reversible_heun(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """One step of a map with an explicit algebraic inverse (Kidger, Foster, Li, Lyons 2021)."""
    (W, *_) = noise
    z, f, g = carry
    z1 = terms.add(2.0 * y - z, g, W).add_(f, alpha=h)
    f1, g1 = terms.f(ts[0], z1), terms.g(ts[0], z1)
    return terms.add(y, g + g1, W, 0.5).add_(f + f1, alpha=0.5 * h), (z1, f1, g1), None


REVERSIBLE_HEUN = Method(
    "reversible_heun",
    _reversible_heun,
    STRATONOVICH,
    ALL,
    "W",
    0.5,
    1.0,
    nodes=(1.0,),
    begin=_begin_reversible,
)
