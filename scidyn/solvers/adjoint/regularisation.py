"""Measure the accepted steps again so that their difficulty is differentiable."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.loop import Trace
from scidyn.solvers.methods import METHODS
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.penalties import PenaltySum, Regularization, Stiffness

__all__ = ["check_regularize", "difficulty", "has_estimate", "has_pair", "regularised", "with_nodes"]


def check_regularize(problem: Problem, penalty: object, adjoint: str | None) -> None:
    """Refuse a penalty that the method or the adjoint cannot give.

    Raises
    ------
    OptionError
        If it is not callable, the method lacks the estimate, or the adjoint gives no gradient of inner states.
    """
    if not callable(penalty):
        raise OptionError(
            f"regularize must be LocalError(...), Stiffness(...), a sum of them, or a function of a Regularization; "
            f"got {penalty!r}."
        )
    parts = penalty.parts if isinstance(penalty, PenaltySum) else (penalty,)
    check_estimates(problem.method, stiffness=any(isinstance(part, Stiffness) for part in parts))
    if adjoint not in ("discrete", "direct", None):
        raise OptionError(
            f"regularize needs the gradient of inner states, which adjoint={adjoint!r} does not give: "
            "use Solution.local_regulariser, or adjoint='discrete'."
        )


def check_estimates(method: Method, *, stiffness: bool) -> None:
    """Refuse a method without an error estimate or, if asked for, without two stages at one time."""
    if not has_estimate(method):
        fit = ", ".join(repr(name) for name, known in METHODS.items() if has_estimate(known))
        raise OptionError(f"method {method.name!r} has no error estimate to penalise; explicit ones with one: {fit}.")
    if stiffness and not has_pair(method):
        fit = ", ".join(repr(name) for name, known in METHODS.items() if has_estimate(known) and has_pair(known))
        raise OptionError(f"method {method.name!r} has no two stages at one time, which Stiffness needs: use {fit}.")


def with_nodes(problem: Problem, trace: Trace) -> tuple[Problem, Trace]:
    """Report the starts of all steps after the wanted times, so that they get gradients like these."""
    columns = problem.times.shape[0]
    times = torch.cat([problem.times, trace.times[:-1, :columns].T], dim=1)
    y = torch.cat([trace.y, trace.states.transpose(0, 1)], dim=1)
    return problem._replace(times=times), trace._replace(y=y)


def regularised(
    problem: Problem, trace: Trace, penalty: Callable[[Regularization], Tensor], states: Tensor
) -> Regularization:
    """Take the recorded steps from ``states`` (steps, batch, D) once more and weigh them."""
    measured = [difficulty(problem, *step) for step in zip(trace.times[:-1].detach(), trace.size, states, strict=True)]
    batch = problem.y0.shape[0]
    times, size = trace.times[:-1].detach().T.expand(batch, -1), trace.size.T.expand(batch, -1)
    error, unscaled, stiffness = (
        None if parts[0] is None else torch.where(size > 0, torch.stack(parts, dim=1), torch.nan)
        for parts in zip(*measured, strict=True)
    )
    found = Regularization(states.new_zeros(()), error, unscaled, stiffness, times, size)  # type: ignore[arg-type]
    return replace(found, value=penalty(found))


def difficulty(problem: Problem, t: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor, Tensor | None]:
    """Scaled error, unscaled error and stiffness estimate (batch,) of one step; zero where ``h`` is."""
    stages: list[tuple[Tensor, Tensor]] = []

    def noted(when: Tensor, state: Tensor) -> Tensor:
        rate = problem.field(when, state)
        stages.append((state, rate))
        return rate

    method, moved = problem.method, h > 0
    taken = method.step(noted, t, h, y, method.begin(noted, t, y, noted(t, y)), problem.tolerance)
    scale = problem.tolerance.scale(torch.maximum(y.abs(), taken.y1.abs()))
    err = torch.zeros_like(y) if taken.err is None else taken.err
    error, unscaled = (_root((part.abs() ** 2).mean(dim=-1), moved) for part in (err / scale, err))
    if not has_pair(method):
        return error, unscaled, None
    (y_one, k_one), (y_two, k_two) = stages[-2:]
    above, below = ((k_two - k_one).abs() ** 2).sum(dim=-1), ((y_two - y_one).abs() ** 2).sum(dim=-1)
    ratio = above / torch.where(below > 0, below, torch.ones_like(below))
    return error, unscaled, _root(ratio, moved & (below > 0))


def _root(square: Tensor, valid: Tensor) -> Tensor:
    """Square root with gradient zero at zero and where not ``valid``."""
    usable = valid & (square > 0)
    return torch.where(usable, torch.where(usable, square, 1.0).sqrt(), 0.0)


def has_estimate(method: Method) -> bool:
    """True for an explicit Runge–Kutta method with an error estimate."""
    return isinstance(method, ExplicitRK) and method.tableau.error is not None


def has_pair(method: Method) -> bool:
    """True if the last two stages are at the end of the step."""
    return isinstance(method, ExplicitRK) and method.tableau.c[-1] == method.tableau.c[-2] == 1.0
