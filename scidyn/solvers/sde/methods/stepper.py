"""The contract of one-step methods for stochastic differential equations."""

from __future__ import annotations

from typing import NamedTuple, Protocol

from torch import Tensor

from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.terms import Terms

__all__ = ["BOTH", "ITO", "STRATONOVICH", "Advance", "Description", "SDEMethod"]

ITO, STRATONOVICH = frozenset({"ito"}), frozenset({"stratonovich"})
BOTH = ITO | STRATONOVICH
ALL = frozenset({"diagonal", "additive", "scalar", "general"})
Carry = tuple[Tensor, ...]


class Description(NamedTuple):
    """What is known of a method before it takes a step.

    Attributes
    ----------
    name : str
        What ``method=`` asks for.
    calculus : frozenset of str
        Meanings of the equation to whose solution it converges. With additive noise both agree.
    noise : frozenset of str
        Kinds of noise for which it holds its orders.
    levels : str
        Brownian quantities that a step needs: "W", "WH" or "WHK".
    strong, weak : float
        Orders of convergence with its best kind of noise.
    estimate : bool
        True if a step gives an error estimate at no further evaluation.
    area : bool
        True if general noise needs Lévy areas.
    componentwise : bool
        True if diagonal noise must be such that each g_i depends on y_i alone.
    """

    name: str
    calculus: frozenset[str]
    noise: frozenset[str]
    levels: str
    strong: float
    weak: float
    estimate: bool = False
    area: bool = False
    componentwise: bool = False


class Advance(NamedTuple):
    """One step: the state after it, what the next step starts from, and the local error estimate."""

    y: Tensor
    carry: Carry = ()
    err: Tensor | None = None


class SDEMethod(Protocol):
    """A one-step method: a pure function of its arguments that reads nothing back to the host."""

    about: Description

    def begin(self, terms: Terms, t: Tensor, y: Tensor) -> Carry:
        """Give what the first step starts from beside the state."""

    def step(self, terms: Terms, t: Tensor, h: float, y: Tensor, carry: Carry, noise: Noise) -> Advance:
        """Advance from ``t`` to ``t + h``."""
