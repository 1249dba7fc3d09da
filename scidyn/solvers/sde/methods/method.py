"""What a stochastic method declares about itself, and the form of its step."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.terms import Terms

__all__ = ["Carry", "Method", "Outcome", "given", "no_carry"]

Carry = tuple[Tensor, ...]
Outcome = tuple[Tensor, Carry, Tensor | None]
Step = Callable[[Terms, tuple[Tensor, ...], float, Tensor, tuple[Tensor, ...], Carry], Outcome]


def given(noise: Noise, h: Tensor) -> tuple[Tensor, ...]:
    """The noise itself: what most methods need."""
    return tuple(x for x in noise if x is not None)


def no_carry(terms: Terms, t: Tensor, y: Tensor) -> Carry:
    """Nothing: one-step methods start from the state alone."""
    return ()


@dataclass(frozen=True)
class Method:
    """One stochastic Runge–Kutta method.

    Attributes
    ----------
    name : str
        What users call it.
    step : callable
        ``step(terms, times, h, y, noise, carry) -> (y1, carry1, error)``; pure, without host reads.
    calculus : tuple of str
        Interpretations for which it converges when the noise is not additive.
    noises : tuple of str
        Kinds of noise it accepts.
    levels : str
        What it needs of the Brownian path: "W", "WH" or "WHK".
    strong, weak : float
        Orders on the least favourable kind of noise in ``noises``.
    nodes : tuple of float
        Relative times at which drift and diffusion are evaluated.
    evaluations : int
        Calls of the drift a step.
    embedded : bool
        True if ``error`` estimates the local error.
    derive : callable
        ``derive(noise, h) -> tensors``, computed for many steps at once and handed to ``step``.
    begin : callable
        ``begin(terms, t0, y0) -> carry``.
    """

    name: str
    step: Step
    calculus: tuple[str, ...]
    noises: tuple[str, ...]
    levels: str
    strong: float
    weak: float
    nodes: tuple[float, ...] = (0.0,)
    evaluations: int = 1
    embedded: bool = False
    derive: Callable[[Noise, Tensor], tuple[Tensor, ...]] = given
    begin: Callable[[Terms, Tensor, Tensor], Carry] = no_carry
