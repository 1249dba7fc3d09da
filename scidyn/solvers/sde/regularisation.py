r"""How hard the steps of a stochastic solve were, as differentiable numbers to add to a loss.

For each step the scaled error estimate :math:`E_n` of the method, and the stiffness of the drift

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

from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.adjoint.regularisation import Regularization
from scidyn.solvers.sde.methods import SDE_METHODS, SDEMethod
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.rows import column
from scidyn.solvers.sde.task import Task
from scidyn.solvers.sde.terms import Terms

__all__ = ["check_regularize", "measured"]

KINDS = ("error", "stiffness", "local_error", "local_stiffness")


def check_regularize(kind: str | None, method: SDEMethod, adjoint: str | None, backend: str) -> None:
    """Refuse a kind that the method or the backend cannot give."""
    if kind is None:
        return
    choice("regularize", kind, KINDS)
    if "error" in kind and not method.about.estimate:
        able = ", ".join(repr(n) for n, m in SDE_METHODS.items() if m.about.estimate)
        raise OptionError(
            f"regularize={kind!r} needs a method with an error estimate, {able}; got {method.about.name!r}."
        )
    if backend == "torchsde" or adjoint == "backsolve":
        raise OptionError(f"torchsde does not tell its steps: regularize={kind!r} needs the native backend.")


def measured(
    task: Task, plan: Plan, states: Tensor, kind: str, seed: int, tolerance: tuple[float, float]
) -> Regularization:
    """Difficulty of the steps of ``plan``, given the states (B, N + 1, *state) between them."""
    batch, count = states.shape[0], len(plan.sizes)
    if kind.startswith("local"):
        generator = torch.Generator().manual_seed(seed)
        # one step for all rows: which of them is hard differs from call to call
        steps = [int(torch.randint(count, (), generator=generator, device="cpu"))]
        states = states.detach()
    else:
        steps = list(range(count))
    whole = torch.isfinite(states.detach()).flatten(1).all(1)
    errors, stiffnesses, starts, sizes = [], [], [], []
    for n in steps:
        t, h = _wide(plan.starts[n], batch), _wide(plan.sizes[n], batch)
        error, stiffness = _difficulty(task, plan, n, states, whole, kind, tolerance)
        errors.append(error)
        stiffnesses.append(stiffness)
        starts.append(t.to(states.device))
        sizes.append(h.to(states.device))
    error, stiff = torch.stack(errors, dim=1), torch.stack(stiffnesses, dim=1)
    t, h = torch.stack(starts, dim=1), torch.stack(sizes, dim=1)
    measure = error * h.to(error.dtype) if "error" in kind else stiff
    return Regularization(measure.sum(dim=1).mean(), error, stiff, t, h)


def _wide(x: Any, batch: int) -> Tensor:
    """A number, or one for each row, as a tensor (B,) in double precision."""
    if isinstance(x, Tensor):
        return x.detach().reshape(-1).to(torch.float64).expand(batch)
    return torch.full((batch,), float(x), dtype=torch.float64, device="cpu")


def _difficulty(
    task: Task, plan: Plan, n: int, states: Tensor, whole: Tensor, kind: str, tolerance: tuple[float, float]
) -> tuple[Tensor, Tensor]:
    """Scaled error and stiffness of step ``n`` for each row; zero where a row fails at some time or did not move."""
    terms, t, h = task.terms, plan.starts[n], plan.sizes[n]
    y, y1 = states[:, n], states[:, n + 1]
    sound = whole & (h > 0) if isinstance(h, Tensor) else whole
    mask = sound.view(-1, *([1] * (y.ndim - 1)))
    y, y1 = torch.where(mask, y, task.y0), torch.where(mask, y1, task.y0)
    error = torch.zeros(len(y), dtype=y.real.dtype, device=y.device)
    if "error" in kind or kind == "local_stiffness":
        (noise,) = plan.noises(n, n + 1)
        terms.estimating = True
        taken = task.method.step(terms, t, h, y, task.method.begin(terms, t, y), noise)
        terms.estimating = False
        y1 = torch.where(mask, taken.y, y1)
        if taken.err is not None:
            scale = tolerance[1] + tolerance[0] * torch.maximum(y.abs(), y1.abs())
            error = _root((taken.err / scale).flatten(1).square().mean(1), sound)
    return error, _stiffness(terms, t, h, y, y1, sound)


def _stiffness(terms: Terms, t: Tensor, h: Any, y: Tensor, y1: Tensor, sound: Tensor) -> Tensor:
    """Growth of the drift along the correction of the trapezoidal rule."""
    half = 0.5 * column(h, y, y.ndim) if isinstance(h, Tensor) else 0.5 * h
    end = (t + h).to(t.dtype)
    when, then = (x[0] if x.ndim == 1 and x.shape[0] == 1 else x for x in (t, end))
    when, then = when.to(y.real.dtype), then.to(y.real.dtype)
    f1 = terms.f(then, y1)
    d = half * (f1 - terms.f(when, y))
    change = terms.f(then, y1 + d) - f1
    above, below = change.flatten(1).square().sum(1), d.flatten(1).square().sum(1)
    usable = sound & (below > 0)
    return _root(above / torch.where(usable, below, 1.0), usable)


def _root(square: Tensor, valid: Tensor) -> Tensor:
    """Square root with gradient zero at zero and where not ``valid``."""
    usable = valid & (square > 0)
    return torch.where(usable, torch.where(usable, square, 1.0).sqrt(), 0.0)
