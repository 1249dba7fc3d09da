"""Stages of a fit: which optimiser, how long, when to stop."""

from __future__ import annotations

from dataclasses import dataclass

from scidyn._check.values import choice, integer, number

__all__ = ["LBFGS", "Adam"]

SCHEDULES = ("constant", "cosine")


@dataclass(frozen=True)
class Adam:
    """Adam steps.

    Attributes
    ----------
    iterations : int
        Number of steps.
    learning_rate : float
        Step size.
    patience : int or None
        Stop the stage when the validation loss has not improved for this many iterations.
    clip : float or None
        Largest norm of the gradient.
    schedule : {"constant", "cosine"}
        "cosine" lets the learning rate fall to zero over the stage.

    Examples
    --------
    >>> from scidyn.training import Adam
    >>> Adam(100, 1e-2).iterations
    100
    """

    iterations: int
    learning_rate: float = 1e-2
    patience: int | None = None
    clip: float | None = None
    schedule: str = "constant"

    def __post_init__(self) -> None:
        integer("iterations", self.iterations, at_least=0)
        number("learning_rate", self.learning_rate, above=0)
        choice("schedule", self.schedule, SCHEDULES)
        if self.patience is not None:
            integer("patience", self.patience, at_least=1)
        if self.clip is not None:
            number("clip", self.clip, above=0)


@dataclass(frozen=True)
class LBFGS:
    """L-BFGS steps with a strong Wolfe line search, for full batches.

    Attributes
    ----------
    iterations : int
        Number of steps.
    tolerance : float
        Stop when the largest entry of the gradient is below this.
    patience : int or None
        Stop the stage when the validation loss has not improved for this many iterations.

    Examples
    --------
    >>> from scidyn.training import LBFGS
    >>> LBFGS(20).tolerance
    1e-07
    """

    iterations: int
    tolerance: float = 1e-7
    patience: int | None = None

    def __post_init__(self) -> None:
        integer("iterations", self.iterations, at_least=0)
        number("tolerance", self.tolerance, above=0)
        if self.patience is not None:
            integer("patience", self.patience, at_least=1)
