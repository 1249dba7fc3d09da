"""Methods for noise that does not depend on the state: SEA, SRA1 and ShARK."""

from __future__ import annotations

from torch import Tensor

from scidyn.solvers.sde.methods.method import Carry, Method, Outcome
from scidyn.solvers.sde.terms import Terms

__all__ = ["SEA", "SHARK", "SRA1"]

BOTH = ("ito", "stratonovich")


def _finish(terms: Terms, y: Tensor, g: Tensor, g_end: Tensor, W: Tensor, H: Tensor) -> Tensor:
    """``y + ∫ g(s) dW(s)`` with g linear over the step."""
    return terms.add(terms.add(y, g, W), g_end - g, 0.5 * W - H)


def _sea(terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry) -> Outcome:
    """Shifted Euler: the drift at the mean of the noise over the step."""
    W, H = noise[0], noise[1]
    g = terms.g(ts[0], y)
    f = terms.f(ts[0], terms.add(y, g, 0.5 * W + H))
    return _finish(terms, y, g, terms.g(ts[1], y), W, H).add_(f, alpha=h), carry, None


SEA = Method("sea", _sea, BOTH, ("additive",), "WH", 1.0, 1.0, nodes=(0.0, 1.0))


def _sra1(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Rößler's SRA1 (2010)."""
    W, H = noise[0], noise[1]
    g, f1 = terms.g(ts[0], y), terms.f(ts[0], y)
    f2 = terms.f(ts[1], terms.add(y, g, 0.75 * W + 1.5 * H).add_(f1, alpha=0.75 * h))
    y1 = _finish(terms, y, g, terms.g(ts[2], y), W, H)
    return y1.add_(f1, alpha=h / 3.0).add_(f2, alpha=2.0 * h / 3.0), carry, (f2 - f1).mul_(2.0 * h / 3.0)


SRA1 = Method("sra1", _sra1, BOTH, ("additive",), "WH", 1.5, 2.0, nodes=(0.0, 0.75, 1.0), evaluations=2, embedded=True)


def _shark(
    terms: Terms, ts: tuple[Tensor, ...], h: float, y: Tensor, noise: tuple[Tensor, ...], carry: Carry
) -> Outcome:
    """Shifted additive-noise Runge–Kutta (Foster, dos Reis, Strange 2024)."""
    W, H = noise[0], noise[1]
    g = terms.g(ts[0], y)
    z1 = terms.add(y, g, H)
    f1 = terms.f(ts[0], z1)
    f2 = terms.f(ts[1], terms.add(z1, g, W, 5.0 / 6.0).add_(f1, alpha=5.0 / 6.0 * h))
    y1 = _finish(terms, y, g, terms.g(ts[2], y), W, H)
    return y1.add_(f1, alpha=0.4 * h).add_(f2, alpha=0.6 * h), carry, (f2 - f1).mul_(0.6 * h)


SHARK = Method(
    "shark", _shark, BOTH, ("additive",), "WH", 1.5, 2.0, nodes=(0.0, 5.0 / 6.0, 1.0), evaluations=2, embedded=True
)
