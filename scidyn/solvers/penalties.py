r"""How hard the accepted steps were, and what of it is added to a loss.

For each accepted step j of size :math:`h_j` the scaled error estimate :math:`E_j` (a step is accepted at
:math:`E_j \le 1`) and, where two stages of the method share a node, the stiffness estimate

.. math:: S_j = \lVert k_s - k_{s-1} \rVert / \lVert Y_s - Y_{s-1} \rVert ,

an estimate of the largest :math:`|\lambda|` of the Jacobian.

References
----------
A. Pal, Y. Ma, V. Shah, C. Rackauckas, Opening the blackbox: accelerating neural differential equations by
regularizing internal solver heuristics, ICML 2021.
A. Pal, A. Edelman, C. Rackauckas, Locally regularized neural differential equations, ICML 2023.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from scidyn._check.values import choice, number
from scidyn.errors import OptionError

__all__ = ["LocalError", "Penalty", "PenaltySum", "Regularization", "Stiffness"]

AGGREGATES = ("mean", "sum", "max")


@dataclass(frozen=True)
class Regularization:
    """Difficulty of the accepted steps; entries at which a sample did not move are NaN.

    Attributes
    ----------
    value : Tensor, scalar
        The penalty asked for, to be added to a loss. Differentiable, like ``error``, ``unscaled_error`` and
        ``stiffness``; the grid of steps is a constant of the gradient.
    error : Tensor, shape (batch, steps)
        Scaled error estimate E, dimensionless.
    unscaled_error : Tensor, shape (batch, steps)
        Root mean square of the error estimate, in the units of the state.
    stiffness : Tensor, shape (batch, steps), or None
        Stiffness estimate S, per unit of time; None if no two stages of the method share a node.
    t, h : Tensor, shape (batch, steps)
        Starts and sizes of the steps, in increasing time.
    """

    value: Tensor
    error: Tensor
    unscaled_error: Tensor
    stiffness: Tensor | None
    t: Tensor
    h: Tensor

    @property
    def error_h(self) -> Tensor:
        """Scaled error times the size of the step, E·h, shape (batch, steps)."""
        return self.error * self.h.to(self.error.dtype)

    @property
    def error_sq(self) -> Tensor:
        """Square of the scaled error, shape (batch, steps)."""
        return self.error**2


@dataclass(frozen=True)
class Penalty:
    """A weighted number made of the difficulty of the steps; penalties can be added and multiplied by a number."""

    weight: float = 1.0
    aggregate: str = "mean"

    def __post_init__(self) -> None:
        number("weight", self.weight)
        choice("aggregate", self.aggregate, AGGREGATES)

    def __add__(self, other: Penalty | PenaltySum) -> PenaltySum:
        """Both penalties together."""
        return PenaltySum((self,)) + other

    def __mul__(self, factor: float) -> Penalty:
        """The same penalty with its weight multiplied by ``factor``."""
        return replace(self, weight=self.weight * number("factor", factor))

    __rmul__ = __mul__

    def __call__(self, reg: Regularization) -> Tensor:
        """Aggregate over the steps of each sample, then take the mean over samples."""
        return self.weight * aggregated(self.measure(reg), self.aggregate).mean()

    def measure(self, reg: Regularization) -> Tensor:
        """Difficulty of each step, shape (batch, steps)."""
        raise NotImplementedError


@dataclass(frozen=True)
class LocalError(Penalty):
    r"""Penalty on the error estimates of the steps, ``weight * mean(E * h)`` (ERNODE).

    It steers training to vector fields that need fewer steps. E depends on the tolerances: a weight tuned at
    one tolerance means nothing at another.

    Parameters
    ----------
    weight : float
        Factor of the penalty.
    aggregate : str
        Over the steps of a sample: ``"mean"`` (default), ``"sum"`` or ``"max"``.
    squared : bool
        Use E² instead of E·h.
    unscaled : bool
        Use the error itself, in the units of the state, which does not depend on the tolerances.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is unknown.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import LocalError, Stiffness, solve_ode
    >>> rate = torch.tensor(-1.5, requires_grad=True)
    >>> penalty = LocalError() + 0.1 * Stiffness()
    >>> solution = solve_ode(lambda t, y: rate * y, torch.ones(1, 1), [0.0, 1.0], regularize=penalty)
    >>> solution.reg.value.backward()
    >>> round(solution.reg.stiffness[0, 0].item(), 2)
    1.5

    References
    ----------
    A. Pal, Y. Ma, V. Shah, C. Rackauckas, Opening the blackbox: accelerating neural differential equations by
    regularizing internal solver heuristics, ICML 2021.
    """

    squared: bool = False
    unscaled: bool = False

    def measure(self, reg: Regularization) -> Tensor:
        """E·h or E² of each step, shape (batch, steps)."""
        error = reg.unscaled_error if self.unscaled else reg.error
        return error**2 if self.squared else error * reg.h.to(error.dtype)


@dataclass(frozen=True)
class Stiffness(Penalty):
    r"""Penalty on the stiffness estimates of the steps, ``weight * mean(S)`` (SRNODE).

    The published code divides S by the length of the stability region, 3.5068 for Tsit5: divide the weight.

    Parameters
    ----------
    weight : float
        Factor of the penalty.
    aggregate : str
        Over the steps of a sample: ``"mean"`` (default), ``"sum"`` or ``"max"``.

    Raises
    ------
    scidyn.errors.OptionError
        If an option is unknown.

    Examples
    --------
    >>> from scidyn.solvers import Stiffness
    >>> (0.5 * Stiffness(weight=0.2)).weight
    0.1

    References
    ----------
    A. Pal, Y. Ma, V. Shah, C. Rackauckas, Opening the blackbox: accelerating neural differential equations by
    regularizing internal solver heuristics, ICML 2021.
    """

    def measure(self, reg: Regularization) -> Tensor:
        """S of each step, shape (batch, steps)."""
        if reg.stiffness is None:
            raise OptionError("the method has no two stages at one time: use 'tsit5' or 'dopri5'.")
        return reg.stiffness


@dataclass(frozen=True)
class PenaltySum:
    """Several penalties added."""

    parts: tuple[Callable[[Regularization], Tensor], ...]

    def __add__(self, other: Penalty | PenaltySum) -> PenaltySum:
        """All of these penalties and another."""
        return PenaltySum(self.parts + (other.parts if isinstance(other, PenaltySum) else (other,)))

    def __call__(self, reg: Regularization) -> Tensor:
        """Sum of the values of all parts."""
        return torch.stack([part(reg) for part in self.parts]).sum()


def aggregated(measure: Tensor, how: str) -> Tensor:
    """Mean, sum or largest over the steps (batch, steps) that are not NaN; zero without any."""
    valid = ~torch.isnan(measure)
    if how == "max":
        largest = torch.where(valid, measure, -torch.inf).amax(dim=1)
        return torch.where(valid.any(dim=1), largest, 0.0)
    total = torch.where(valid, measure, 0.0).sum(dim=1)
    return total / valid.sum(dim=1).clamp_min(1) if how == "mean" else total
