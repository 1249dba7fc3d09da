"""Steps of underdamped Langevin dynamics on the state ``(x, v)``, joined along the last axis."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.stepper import Advance, Carry

__all__ = ["LANGEVIN_METHODS", "Align", "Baoab", "Dynamics", "Quicsort"]

SMALL = 0.5


class Dynamics(NamedTuple):
    """``dx = v dt``, ``dv = -γ v dt - u ∇U(x) dt + √(2 γ u) dW``."""

    gradient: Callable[[Tensor], Tensor]
    friction: float
    temperature: float

    @property
    def amplitude(self) -> float:
        """``√(2 γ u)``."""
        return math.sqrt(2.0 * self.friction * self.temperature)


def _phi(order: int, a: float) -> float:
    """``φ_k(-a) = Σ (-a)^j / (j + k)!``."""
    if a < SMALL:
        return sum((-a) ** j / math.factorial(j + order) for j in range(18))
    return -math.expm1(-a) / a if order == 1 else (math.exp(-a) + a - 1.0) / (a * a)


def drag(friction: float, tau: float) -> float:
    """``∫_0^τ e^(-γ s) ds``."""
    return tau * _phi(1, friction * tau)


def drift(friction: float, tau: float) -> float:
    """``∫_0^τ (1 - e^(-γ s)) / γ ds``."""
    return tau * tau * _phi(2, friction * tau)


def tilt(friction: float, h: float) -> float:
    """``6 (e^(-α) (α + 2) + α - 2) / (α² γ)`` with ``α = γ h``: weight of H in the position."""
    a = friction * h
    if a < SMALL:  # Σ_{k ≥ 3} (2 - k) (-α)^k / k!
        return 6.0 * h * sum((2 - k) * (-1) ** k * a ** (k - 3) / math.factorial(k) for k in range(3, 22))
    return 6.0 * (math.exp(-a) * (a + 2.0) + a - 2.0) / (a * a * friction)


class Align:
    """One gradient a step: exact for a constant gradient, strong order 2 (Foster, Lyons, Oberhauser 2021)."""

    name, levels = "align", "WH"

    def begin(self, terms: Dynamics, t: Tensor, y: Tensor) -> Carry:
        """Evaluate the gradient at the start."""
        return (terms.gradient(y.chunk(2, dim=-1)[0]),)

    def step(self, terms: Dynamics, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        x, v = y.chunk(2, dim=-1)
        gamma, u, rho = terms.friction, terms.temperature, terms.amplitude
        a, b, c = drag(gamma, h), drift(gamma, h) / h, tilt(gamma, h)
        f0 = carry[0]
        x1 = x.add(v, alpha=a).sub(f0, alpha=u * b * h).add(noise.W, alpha=rho * b).add(noise.h, alpha=rho * c)
        f1 = terms.gradient(x1)
        v1 = (math.exp(-gamma * h) * v).sub(f0, alpha=u * (a - b)).sub(f1, alpha=u * b)
        v1 = v1.add(noise.W, alpha=rho * a / h).sub(noise.h, alpha=rho * gamma * c)
        return Advance(torch.cat([x1, v1], dim=-1), (f1,))


class Quicsort:
    """Two gradients a step along a path of straight pieces: strong order 3 (Foster, dos Reis, Strange 2024).

    The path jumps by ``H + 6K``, runs straight by ``W - 12K`` and jumps by ``6K - H``; the force
    acts at the two Gauss points. All flows in between are exact.
    """

    name, levels = "quicsort", "WHK"

    def begin(self, terms: Dynamics, t: Tensor, y: Tensor) -> Carry:
        """Give nothing."""
        return ()

    def step(self, terms: Dynamics, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        x, v = y.chunk(2, dim=-1)
        gamma, rho = terms.friction, terms.amplitude
        kick = 0.5 * terms.temperature * h
        K = torch.zeros_like(noise.W) if noise.K is None else noise.K
        early, late = (3 - math.sqrt(3)) / 6 * h, (3 + math.sqrt(3)) / 6 * h
        slope = (noise.W.sub(K, alpha=12.0)).mul(rho / h)
        v = v.add(noise.h, alpha=rho).add(K, alpha=6.0 * rho)

        def place(tau: float) -> Tensor:
            return x.add(v, alpha=drag(gamma, tau)).add(slope, alpha=drift(gamma, tau))

        f1 = terms.gradient(place(early))
        # weight u h (h / 3): the condition Σ b_i a_ij = 1/6 of order 3
        f2 = terms.gradient(place(late).sub(f1, alpha=2.0 * kick * drag(gamma, h / 3.0)))
        x1 = place(h).sub(f1, alpha=kick * drag(gamma, h - early)).sub(f2, alpha=kick * drag(gamma, h - late))
        v1 = (math.exp(-gamma * h) * v).add(slope, alpha=drag(gamma, h))
        v1 = v1.sub(f1, alpha=kick * math.exp(-gamma * (h - early))).sub(f2, alpha=kick * math.exp(-gamma * (h - late)))
        v1 = v1.sub(noise.h, alpha=rho).add(K, alpha=6.0 * rho)
        return Advance(torch.cat([x1, v1], dim=-1))


class Baoab:
    """Splitting into kicks, drifts and the exact friction flow; weak order 2, one gradient a step.

    Very accurate in the stationary law of x (Leimkuhler, Matthews 2013).
    """

    name, levels = "baoab", "W"

    def begin(self, terms: Dynamics, t: Tensor, y: Tensor) -> Carry:
        """Evaluate the gradient at the start."""
        return (terms.gradient(y.chunk(2, dim=-1)[0]),)

    def step(self, terms: Dynamics, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        x, v = y.chunk(2, dim=-1)
        kick = 0.5 * terms.temperature * h
        decay = math.exp(-terms.friction * h)
        spread = math.sqrt(terms.temperature * -math.expm1(-2.0 * terms.friction * h) / h)
        v = v.sub(carry[0], alpha=kick)
        x = x.add(v, alpha=0.5 * h)
        v = (decay * v).add(noise.W, alpha=spread)
        x = x.add(v, alpha=0.5 * h)
        force = terms.gradient(x)
        return Advance(torch.cat([x, v.sub(force, alpha=kick)], dim=-1), (force,))


LANGEVIN_METHODS = {method.name: method for method in (Align(), Quicsort(), Baoab())}
