"""Methods that need the increment of the Brownian motion alone."""

from __future__ import annotations

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.stepper import ALL, ITO, STRATONOVICH, Advance, Carry, Description
from scidyn.solvers.sde.terms import Terms

__all__ = ["EulerHeun", "EulerMaruyama", "Heun", "Memoryless", "Midpoint"]


class Memoryless:
    """A method whose step starts from the state alone."""

    def begin(self, terms: Terms, t: Tensor, y: Tensor) -> Carry:
        """Give nothing."""
        return ()


class EulerMaruyama(Memoryless):
    """``y1 = y + f h + g W``: strong order 1/2 (1 with additive noise), weak order 1, Itô."""

    about = Description("euler", ITO, ALL, "W", 0.5, 1.0)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        return Advance(terms.move(y.add(terms.f(t, y), alpha=h), terms.g(t, y), noise.W))


class EulerHeun(Memoryless):
    """Heun's average for the diffusion, Euler's step for the drift; Stratonovich."""

    about = Description("euler_heun", STRATONOVICH, ALL, "W", 1.0, 1.0)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        g = terms.g(t, y)
        later = terms.g(t + h, terms.move(y, g, noise.W))
        return Advance(terms.move(y.add(terms.f(t, y), alpha=h), g + later, noise.W, 0.5))


class Heun(Memoryless):
    """The trapezoidal predictor-corrector for both terms; Stratonovich."""

    about = Description("heun", STRATONOVICH, ALL, "W", 1.0, 1.0)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        f, g = terms.f(t, y), terms.g(t, y)
        guess = terms.move(y.add(f, alpha=h), g, noise.W)
        return Advance(
            terms.move(y.add(f + terms.f(t + h, guess), alpha=0.5 * h), g + terms.g(t + h, guess), noise.W, 0.5)
        )


class Midpoint(Memoryless):
    """Both terms at the middle of an Euler step of half the length; Stratonovich."""

    about = Description("midpoint", STRATONOVICH, ALL, "W", 1.0, 1.0)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        middle = terms.move(y.add(terms.f(t, y), alpha=0.5 * h), terms.g(t, y), noise.W, 0.5)
        time = t + 0.5 * h
        return Advance(terms.move(y.add(terms.f(time, middle), alpha=h), terms.g(time, middle), noise.W))
