r"""Reversible stepping: the backward sweep reconstructs the states, so none of them is kept.

Any explicit method with increment :math:`\Psi_h(t, z)` advances a pair (y, z), which starts as (y0, y0):

.. math::
    y' = l\,y + (1 - l)\,z + \Psi_h(t, z), \qquad z' = z - \Psi_{-h}(t + h, y'),

and has the exact inverse

.. math::
    z = z' + \Psi_{-h}(t + h, y'), \qquad y = (y' - (1 - l)\,z - \Psi_h(t, z)) / l .

References
----------
S. McCallum, J. Foster, Efficient, accurate and stable gradients for neural ODEs, arXiv:2410.11648, 2024.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.capture import own_shares
from scidyn.solvers.adjoint.once import refuse_twice
from scidyn.solvers.adjoint.pull import pull
from scidyn.solvers.adjoint.records import Cotangents, Steps, add
from scidyn.solvers.arguments import Problem
from scidyn.solvers.controller import Tolerance
from scidyn.solvers.dense import locate
from scidyn.solvers.loop import Trace
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Method, Rate, Step

__all__ = ["COUPLING", "Marks", "Reversible", "attach_reversible", "reversible"]

COUPLING = 0.999
# rounding grows by 1 / COUPLING per reconstructed step: a factor of 7 over this many
SPACING = 2000


@dataclass(frozen=True)
class Reversible:
    """An explicit method made reversible; z is what it carries from step to step.

    Parameters
    ----------
    base : ExplicitRK
        The method whose increments are used.
    """

    base: ExplicitRK
    implicit: bool = False

    @property
    def name(self) -> str:
        """Name of the wrapped method."""
        return self.base.name

    @property
    def order(self) -> int:
        """Order of the wrapped method."""
        return self.base.order

    @property
    def error_order(self) -> int:
        """Power of the step size in the error estimate."""
        return self.base.error_order

    @property
    def dense_order(self) -> int:
        """Order of the continuous extension."""
        return self.base.dense_order

    @property
    def adaptive(self) -> bool:
        """True if the wrapped method has an error estimate."""
        return self.base.adaptive

    @property
    def evaluations(self) -> int:
        """Evaluations of the vector field in a step."""
        return 2 * self.base.evaluations + 1

    def begin(self, rate: Rate, t: Tensor, y: Tensor, k1: Tensor) -> tuple[Tensor, ...]:
        """Start with z = y."""
        return (y.clone(),)

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Advance the pair; a step of size zero changes nothing."""
        (z,) = carry
        taken = self.base.step(rate, t, h, z, (rate(t, z),), tolerance)
        size = h.to(y.real.dtype).unsqueeze(-1)
        moved = size > 0
        gap = torch.where(moved, (1.0 - COUPLING) * (z - y), torch.zeros_like(y))
        y1 = y + gap + (taken.y1 - z)
        z1 = z - self.back(rate, t, h, y1)
        first = taken.coef[0] + gap / torch.where(moved, size, torch.ones_like(size))
        return taken._replace(y1=y1, carry=(z1,), coef=(first, *taken.coef[1:]))

    def replay(self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, *, dense: bool = True) -> Step:
        """Refuse: the pair is not known from y alone."""
        raise OptionError("a reversible step cannot be repeated from y alone: use adjoint='discrete' for this.")

    def back(self, rate: Rate, t: Tensor, h: Tensor, y1: Tensor) -> Tensor:
        """Increment of a step of the wrapped method from ``(t + h, y1)`` back in time."""
        return self.base.replay(rate, t + h, -h, y1, dense=False).y1 - y1


def reversible(method: Method) -> Reversible:
    """Wrap a method.

    Raises
    ------
    OptionError
        If it is not an explicit Runge–Kutta method.
    """
    if not isinstance(method, ExplicitRK):
        raise OptionError(
            f"adjoint='reversible' needs an explicit Runge-Kutta method; got {method.name!r}: "
            "use method='tsit5' or 'rk4', or adjoint='discrete'."
        )
    return Reversible(method)


class Marks:
    """Pairs stored on the way, so that rounding does not grow over more than ``SPACING`` steps."""

    def __init__(self) -> None:
        self.pairs: dict[int, tuple[Tensor, Tensor]] = {}
        self._last = 0

    def __call__(self, count: int, y: Tensor, carry: tuple[Tensor, ...]) -> None:
        """Note the pair after ``count`` recorded steps."""
        if count - self._last >= SPACING:
            self.pairs[count] = (y.detach().clone(), carry[0].detach().clone())
            self._last = count


class _Pair(NamedTuple):
    y: Tensor
    z: Tensor


def attach_reversible(problem: Problem, trace: Trace, marks: Marks, y0: Tensor, params: Sequence[Tensor]) -> Tensor:
    """Give ``trace.y`` a gradient; samples that failed have none."""
    bare = problem._replace(y0=problem.y0.detach(), times=problem.times.detach())
    end, size = _Pair(trace.final.y, trace.final.carry[0]), trace.size
    lost = ~(torch.isfinite(end.y) & torch.isfinite(end.z)).all(dim=-1)
    if size.shape[1] > 1:
        size = torch.where(lost, 0.0, size)
    # a failed sample stands still at its start, where f is finite
    end = _Pair(*(torch.where(lost.unsqueeze(-1), bare.y0, x) for x in end))
    return _ReversibleAdjoint.apply(bare, marks, trace.y, trace.times, size, lost, end.y, end.z, y0, *params)


class _ReversibleAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        problem: Problem,
        marks: Marks,
        y: Tensor,
        times: Tensor,
        size: Tensor,
        lost: Tensor,
        y_end: Tensor,
        z_end: Tensor,
        y0: Tensor,
        *params: Tensor,
    ) -> Tensor:
        ctx.problem, ctx.marks = problem, marks
        missing = torch.isnan(y).all(dim=-1) | lost.unsqueeze(-1)
        ctx.save_for_backward(missing, times, size, y_end, z_end, y0, *params)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        missing, times, size, y, z, y0, *params = ctx.saved_tensors
        known = grad.masked_fill(missing.unsqueeze(-1), 0.0)
        bare, sharing = own_shares(params)
        with sharing, torch.no_grad():
            found = _sweep(ctx.problem, Steps(times, size, y[None, :0]), ctx.marks, _Pair(y, z), bare, known)
        return *[None] * 8, *refuse_twice("reversible", found, [grad, y0, *params])


def _sweep(
    problem: Problem, steps: Steps, marks: Marks, pair: _Pair, params: Sequence[Tensor], grad: Tensor
) -> list[Tensor | None]:
    """Reconstruct the pairs from the last step to the first and pull the gradient back through each."""
    if len(steps.size) == 0:
        return [grad.sum(dim=1), *[None] * len(params)]
    index, theta = locate(steps.times, problem.times.expand(steps.times.shape[1], -1))
    theta = torch.where(theta > 0.5, 1.0, 0.0) if problem.stepping == "fixed" else theta
    outer = Cotangents.of(steps, index, theta, grad)
    totals: list[Tensor | None] = [None] * len(params)
    weight = _Pair(outer.nodes[-1], torch.zeros_like(outer.nodes[-1]))
    for n in range(len(steps.size) - 1, -1, -1):
        stored = marks.pairs.get(n + 1)
        if stored is not None:
            alive = steps.size.sum(dim=0).unsqueeze(-1) > 0
            pair = _Pair(*(torch.where(alive, new, old) for new, old in zip(stored, pair, strict=True)))
        pair, weight, found = _undo(problem, steps, n, outer, pair, weight, params)
        weight = weight._replace(y=weight.y + outer.nodes[n])
        totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
    return [weight.y + weight.z, *totals]


def _undo(
    problem: Problem, steps: Steps, n: int, outer: Cotangents, pair: _Pair, weight: _Pair, params: Sequence[Tensor]
) -> tuple[_Pair, _Pair, list[Tensor | None]]:
    """Go back over step n: the pair before it, the gradient with respect to it, and its part of ``params``."""
    method: Any = problem.method
    t, h, dense = steps.times[n], steps.size[n], outer.inside[n]
    moved = (h > 0).unsqueeze(-1)
    with torch.enable_grad():
        y1 = pair.y.detach().requires_grad_()
        back = method.back(problem.field, t, h, y1)
    later, *from_back = pull([back], [y1, *params], [torch.where(moved, -weight.z, 0.0)])
    y_bar = weight.y if later is None else weight.y + later
    with torch.enable_grad():
        z = (pair.z + torch.where(moved, back.detach(), 0.0)).requires_grad_()
        taken = method.base.replay(problem.field, t, h, z, dense=dense)
        increment = taken.y1 - z
    outputs, weights = [increment], [torch.where(moved, y_bar, 0.0)]
    if dense:
        outputs += taken.coef
        weights += outer.coef(n, len(taken.coef))
    own, *from_step = pull(outputs, [z, *params], weights)
    before = (pair.y - (1.0 - COUPLING) * z.detach() - increment.detach()) / COUPLING
    mixed = (1.0 - COUPLING) * y_bar
    z_bar, y_before = weight.z + mixed, y_bar - mixed
    z_bar = z_bar if own is None else z_bar + own
    if dense:
        size = h.to(y_bar.real.dtype).unsqueeze(-1)
        slope = (1.0 - COUPLING) / torch.where(moved, size, torch.ones_like(size)) * weights[1]
        z_bar, y_before = z_bar + slope, y_before - slope
    earlier = _Pair(torch.where(moved, before, pair.y), z.detach())
    result = _Pair(torch.where(moved, y_before, weight.y), torch.where(moved, z_bar, weight.z))
    return earlier, result, [add(a, b) for a, b in zip(from_back, from_step, strict=True)]
