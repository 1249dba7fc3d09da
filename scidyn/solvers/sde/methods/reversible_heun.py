"""The reversible Heun method, whose steps can be undone in closed form."""

from __future__ import annotations

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.methods.stepper import ALL, STRATONOVICH, Advance, Carry, Description
from scidyn.solvers.sde.terms import Terms

__all__ = ["ReversibleHeun"]


class ReversibleHeun:
    """``ẑ' = 2y - ẑ + f h + g W``, then Heun's average: one evaluation a step; Stratonovich.

    P. Kidger, J. Foster, X. Li, T. Lyons (2021), Efficient and accurate gradients for neural SDEs.
    """

    about = Description("reversible_heun", STRATONOVICH, ALL, "W", 0.5, 1.0)

    def begin(self, terms: Terms, t: Tensor, y: Tensor) -> Carry:
        """Evaluate at the start, where both copies of the state agree."""
        return y, terms.f(t, y), terms.g(t, y)

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Take one step."""
        z, f, g = carry
        later = terms.move((2.0 * y).sub(z).add(f, alpha=h), g, noise.W)
        f1, g1 = terms.f(t + h, later), terms.g(t + h, later)
        y1 = terms.move(y.add(f + f1, alpha=0.5 * h), g + g1, noise.W, 0.5)
        return Advance(y1, (later, f1, g1))

    def undo(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> tuple[Tensor, Tensor]:
        """Give the ẑ before the step that ended in ``y`` at ``t + h``, and ``y`` without its old evaluations.

        The caller evaluates ``f, g`` at that ẑ and finishes with ``y - ½ (f h + g W)``.
        """
        z, f, g = carry
        before = terms.move((2.0 * y).sub(z).sub(f, alpha=h), g, noise.W, -1.0)
        return before, terms.move(y.sub(f, alpha=0.5 * h), g, noise.W, -0.5)
