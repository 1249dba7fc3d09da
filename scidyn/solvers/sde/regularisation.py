r"""How hard the steps of a stochastic solve were, as differentiable numbers to add to a loss.

For each step the scaled error estimate :math:`E_n` of the method, if it has one, and the stiffness of the drift

.. math:: S_n = \lVert f(t_{n+1}, y_{n+1} + d) - f(t_{n+1}, y_{n+1}) \rVert / \lVert d \rVert ,
   \qquad d = \tfrac{h}{2} (f(t_{n+1}, y_{n+1}) - f(t_n, y_n)) ,

along the correction d that the trapezoidal rule would make to the drift's part of the step, which lies where the
Jacobian is largest.

References
----------
A. Pal, Y. Ma, V. Shah, C. Rackauckas, Opening the blackbox: accelerating neural differential equations by
regularizing internal solver heuristics, ICML 2021.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.penalties import LocalError, PenaltySum, Regularization
from scidyn.solvers.sde.engine import advance
from scidyn.solvers.sde.methods import SDE_METHODS, SDEMethod
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.rows import column
from scidyn.solvers.sde.task import Task
from scidyn.solvers.sde.terms import Terms

__all__ = ["check_regularize", "local_regulariser", "measured"]


def check_regularize(penalty: object, method: SDEMethod, adjoint: str | None, backend: str) -> None:
    """Refuse a penalty that the method or the backend cannot give."""
    if penalty is None:
        return
    if not callable(penalty):
        raise OptionError(
            f"regularize must be LocalError(...), Stiffness(...), a sum of them, or a function of a Regularization; "
            f"got {penalty!r}."
        )
    if backend == "torchsde" or adjoint == "backsolve":
        raise OptionError("torchsde does not tell its steps: regularize= needs the native backend.")
    parts = penalty.parts if isinstance(penalty, PenaltySum) else (penalty,)
    if any(isinstance(part, LocalError) for part in parts):
        _need_estimate(method)


def _need_estimate(method: SDEMethod) -> None:
    """Refuse a method without an error estimate."""
    if not method.about.estimate:
        able = ", ".join(repr(name) for name, known in SDE_METHODS.items() if known.about.estimate)
        raise OptionError(f"method {method.about.name!r} has no error estimate to penalise; methods with one: {able}.")


def measured(
    task: Task,
    plan: Plan,
    states: Tensor,
    penalty: Callable[[Regularization], Tensor],
    tolerance: tuple[float, float],
) -> Regularization:
    """Difficulty of the steps of ``plan``, given the states (B, N + 1, *state) between them, and its penalty."""
    batch = states.shape[0]
    whole = torch.isfinite(states.detach()).flatten(1).all(1)
    parts = [
        _difficulty(task, plan, n, states[:, n], states[:, n + 1], whole, tolerance) for n in range(len(plan.sizes))
    ]
    error, unscaled, stiff = (torch.stack(x, dim=1) for x in zip(*parts, strict=True))
    t, h = (torch.stack([_wide(x, batch, states) for x in xs], dim=1) for xs in (plan.starts[: len(parts)], plan.sizes))
    moved = (h > 0) & whole.unsqueeze(1)
    error, unscaled, stiff = (torch.where(moved, x, torch.nan) for x in (error, unscaled, stiff))
    found = Regularization(states.new_zeros(()), error, unscaled, stiff, t, h)
    return replace(found, value=penalty(found))


def _wide(x: Any, batch: int, like: Tensor) -> Tensor:
    """A number, or one for each row, as a tensor (B,) in double precision."""
    if isinstance(x, Tensor):
        return x.detach().reshape(-1).to(torch.float64).expand(batch)
    return torch.full((batch,), float(x), dtype=torch.float64, device=like.device)


def _difficulty(
    task: Task, plan: Plan, n: int, y: Tensor, y1: Tensor | None, sound: Tensor, tolerance: tuple[float, float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Scaled error, unscaled error and stiffness of step ``n`` from ``y`` for each row; zero where not ``sound``."""
    terms, t, h = task.terms, plan.starts[n], plan.sizes[n]
    sound = sound & (h > 0) if isinstance(h, Tensor) else sound
    mask = sound.view(-1, *([1] * (y.ndim - 1)))
    y = torch.where(mask, y, task.y0.detach())
    err = torch.full_like(y, torch.nan)
    if task.method.about.estimate or y1 is None:
        (noise,) = plan.noises(n, n + 1)
        terms.estimating = True
        taken = task.method.step(terms, t, h, y, task.method.begin(terms, t, y), noise)
        terms.estimating = False
        y1, err = taken.y, err if taken.err is None else taken.err
    y1 = torch.where(mask, y1, task.y0.detach())
    scale = tolerance[1] + tolerance[0] * torch.maximum(y.abs(), y1.abs())
    error, unscaled = (_root(x.flatten(1).square().mean(1), sound) for x in (err / scale, err))
    return error, unscaled, _stiffness(terms, t, h, y, y1, sound)


def _stiffness(terms: Terms, t: Tensor, h: Any, y: Tensor, y1: Tensor, sound: Tensor) -> Tensor:
    """Growth of the drift along the correction of the trapezoidal rule."""
    half = 0.5 * column(h, y, y.ndim) if isinstance(h, Tensor) else 0.5 * h
    when, then = (x[0] if x.ndim == 1 and x.shape[0] == 1 else x for x in (t, t + h))
    when, then = when.to(y.real.dtype), then.to(y.real.dtype)
    f1 = terms.f(then, y1)
    d = half * (f1 - terms.f(when, y))
    change = terms.f(then, y1 + d) - f1
    above, below = change.flatten(1).square().sum(1), d.flatten(1).square().sum(1)
    usable = sound & (below > 0)
    return _root(above / torch.where(usable, below, 1.0), usable)


def _root(square: Tensor, valid: Tensor) -> Tensor:
    """Square root with gradient zero at zero and where not ``valid``; NaN stays NaN."""
    usable = valid & (square != 0)
    return torch.where(usable, torch.where(usable, square, 1.0).sqrt(), 0.0)


def local_regulariser(
    task: Task, plan: Plan, tolerance: tuple[float, float]
) -> Callable[[str, str, str, torch.Generator], Tensor]:
    """One random step once more, from a state without gradient, as ``Solution.local_regulariser`` calls it."""
    return partial(_local, task._replace(tick=None), plan._replace(compiled=None), tolerance)


def _local(
    task: Task,
    plan: Plan,
    tolerance: tuple[float, float],
    kind: str,
    when: str,
    step: str,
    generator: torch.Generator,
) -> Tensor:
    """Difficulty of one step, the same for all rows; a row that has none so late does not count."""
    choice("kind", kind, ("error", "stiffness"))
    choice("when", when, ("accepted", "uniform"))
    if step != "accepted":
        raise OptionError(f"step must be 'accepted', whose noise is known, in a stochastic solve; got {step!r}.")
    if not isinstance(generator, torch.Generator):
        raise OptionError(f"generator must be a torch.Generator; got {type(generator).__name__}.")
    if kind == "error":
        _need_estimate(task.method)
    sizes = torch.stack([_wide(h, 1 if not isinstance(h, Tensor) else len(h), task.y0) for h in plan.sizes])
    # each step with equal chance, or as often as it is long
    weights = (sizes > 0).to(sizes.dtype).sum(1) if when == "accepted" else sizes.sum(1)
    n = int(torch.multinomial(weights.cpu(), 1, generator=generator))
    with torch.no_grad():
        start = task.y0.detach()
        carry = task.method.begin(task.terms, plan.starts[0], start)
        y, _, _ = advance(task.terms, task.method, plan, (0, n), start, carry)
    whole = torch.isfinite(y).flatten(1).all(1)
    error, _, stiffness = _difficulty(task, plan, n, y, None, whole, tolerance)
    h = plan.sizes[n]
    moved = whole & (h > 0) if isinstance(h, Tensor) else whole
    size = h.to(error.dtype) if isinstance(h, Tensor) else h
    measure = error * size if kind == "error" else stiffness
    return torch.where(moved, measure, 0.0).sum() / moved.sum().clamp_min(1)
