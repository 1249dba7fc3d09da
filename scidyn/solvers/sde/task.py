"""A checked stochastic initial value problem."""

from __future__ import annotations

from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.errors import OptionError
from scidyn.solvers.sde.engine import Tick
from scidyn.solvers.sde.methods import SDEMethod
from scidyn.solvers.sde.terms import Terms

__all__ = ["Task", "check_seed", "check_tolerance"]

TOLERANCE = {torch.float32: (1e-3, 1e-4), torch.float64: (1e-3, 1e-5)}


class Task(NamedTuple):
    """A checked problem.

    Attributes
    ----------
    terms, method : Terms, SDEMethod
        Equation and stepper.
    y0 : Tensor, shape (B, *state)
        Start, with a column for the path divergence if there is one.
    times : Tensor, shape (T,)
        Times to report, in double precision on the host.
    nodes : list of float
        Those and the jump times.
    params : list of Tensor
        What gets gradients beside ``y0``.
    adjoint : str or None
        None if no gradient is wanted or possible.
    padded : bool
        True if the noise needs an idle channel for the divergence.
    tick : callable or None
        Told the fraction done.
    """

    terms: Terms
    method: SDEMethod
    y0: Tensor
    times: Tensor
    nodes: list[float]
    params: list[Tensor]
    adjoint: str | None
    padded: bool
    tick: Tick


def check_tolerance(rtol: Any, atol: Any, y0: Tensor) -> tuple[float, float]:
    """Check the tolerances and fill in the defaults of the dtype."""
    relative, absolute = TOLERANCE.get(y0.dtype, TOLERANCE[torch.float32])
    return (
        relative if rtol is None else number("rtol", rtol, at_least=0.0),
        absolute if atol is None else number("atol", atol, above=0.0),
    )


def check_seed(seed: int | None) -> int:
    """Refuse to draw without a seed."""
    if seed is None:
        raise OptionError("a stochastic solve needs seed=, or bm= with a Brownian path of your own.")
    return integer("seed", seed, at_least=0)
