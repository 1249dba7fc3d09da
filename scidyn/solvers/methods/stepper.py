"""What the loop asks of a one-step method, and what a step gives."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from torch import Tensor

from scidyn.solvers.controller import Tolerance

__all__ = ["Method", "Rate", "Step", "pinned", "repeatable"]

Rate = Callable[[Tensor, Tensor], Tensor]


class Step(NamedTuple):
    """What a step gives.

    Attributes
    ----------
    y1 : Tensor, shape (batch, D)
        State at ``t + h``.
    carry : tuple of Tensor
        What the next step starts from if this one is accepted; the leading axis is batch or 1.
    err : Tensor, shape (batch, D), or None
        Estimate of the local error; None for a method that takes fixed steps only.
    coef : tuple of Tensor, each (batch, D)
        ``y(t + θh) = y + h Σ_p θ^(p+1) coef[p]``.
    failed : Tensor of bool, shape (1,) or (batch,), or None
        True where the stage equations were not solved: the step is rejected and tried with ``h / 4``.
    retry : tuple of Tensor, or None
        Carry after a rejection; None keeps the one the step began with.
    singular : Tensor of bool, shape (batch,), or None
        True where the stage equations were not solved because a linear system was not.
    work : tuple of two Tensors of int32, shape (batch,), or None
        Jacobians and matrix factorisations of each sample.
    iterations : Tensor of int32, shape (batch,), or None
        Newton iterations of the slowest stage, for the step size; ``most`` is their largest number.
    choice : Tensor, shape (batch,), or None
        Which of its formulas the step used for each sample, of a method that has several: a replay that
        is pinned to it uses the same. None for a method with one formula.
    """

    y1: Tensor
    carry: tuple[Tensor, ...]
    err: Tensor | None
    coef: tuple[Tensor, ...]
    failed: Tensor | None = None
    retry: tuple[Tensor, ...] | None = None
    singular: Tensor | None = None
    work: tuple[Tensor, Tensor] | None = None
    iterations: Tensor | None = None
    most: int = 1
    choice: Tensor | None = None


class Method(Protocol):
    """A one-step method; ``rate(t, y)`` takes and gives rows, with ``t`` of shape (1,) or (batch,).

    Attributes
    ----------
    name : str
        What ``method=`` calls it.
    order, error_order, dense_order : int
        Order of the step, power of the step size in the error estimate, order of the polynomial.
    adaptive, implicit : bool
        True if the method has an error estimate; True if its stages are equations to solve.
    evaluations : int
        Calls of ``rate`` in one step, for the statistics.
    """

    @property
    def name(self) -> str: ...  # noqa: D102
    @property
    def order(self) -> int: ...  # noqa: D102
    @property
    def error_order(self) -> int: ...  # noqa: D102
    @property
    def dense_order(self) -> int: ...  # noqa: D102
    @property
    def adaptive(self) -> bool: ...  # noqa: D102
    @property
    def implicit(self) -> bool: ...  # noqa: D102
    @property
    def evaluations(self) -> int: ...  # noqa: D102

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Give the carry of the first step, where ``k1 = rate(t, y)``."""

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Take one step; pure: the host reads nothing and no input is changed."""

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Take the same step from ``(t, h, y)`` alone, differentiable by autograd.

        ``err`` may be None and ``carry`` empty; with ``dense=False`` ``coef`` may be empty.
        """


def pinned(method: Method, choice: Tensor | None) -> Method:
    """Give the method whose replay uses the formulas that a step noted in ``Step.choice``."""
    if choice is None:
        return method
    several: Any = method
    fixed: Method = several.pinned(choice)
    return fixed


def repeatable(method: Method) -> Method:
    """Give the method whose steps in the loop are those of its replay to rounding, if it can make them so."""
    several: Any = getattr(method, "repeatable", None)
    if several is None:
        return method
    same: Method = several()
    return same
