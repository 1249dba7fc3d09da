"""Weights of penalties that change during a fit."""

from __future__ import annotations

import math
from dataclasses import dataclass

from scidyn._check.values import integer, number

__all__ = ["ExponentialDecay"]


@dataclass(frozen=True)
class ExponentialDecay:
    r"""A weight that falls (or rises) exponentially from one value to another and then stays.

    .. math:: \lambda(s) = \lambda_0 \, (\lambda_1 / \lambda_0)^{s / S}, \qquad s \le S .

    Parameters
    ----------
    start, end : float
        First and last value, positive.
    steps : int
        Steps from the first to the last, at least 1.

    Raises
    ------
    scidyn.errors.OptionError
        If a number is out of range.

    Examples
    --------
    >>> from scidyn.training import ExponentialDecay
    >>> weight = ExponentialDecay(start=100.0, end=1.0, steps=10)
    >>> [round(weight(step), 6) for step in (0, 5, 10, 20)]
    [100.0, 10.0, 1.0, 1.0]

    References
    ----------
    A. Pal, Y. Ma, V. Shah, C. Rackauckas, Opening the blackbox: accelerating neural differential equations by
    regularizing internal solver heuristics, ICML 2021: the weight of the error penalty falls so.
    """

    start: float
    end: float
    steps: int

    def __post_init__(self) -> None:
        number("start", self.start, above=0)
        number("end", self.end, above=0)
        integer("steps", self.steps, at_least=1)

    def __call__(self, step: int) -> float:
        """Give the weight at ``step``, counted from zero."""
        share = min(max(step, 0) / self.steps, 1.0)
        return math.exp((1.0 - share) * math.log(self.start) + share * math.log(self.end))
