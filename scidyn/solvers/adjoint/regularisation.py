r"""How hard the steps were, as differentiable numbers to add to a loss.

For each accepted step the scaled error estimate :math:`E_j` (a step is accepted at :math:`E_j \le 1`) and, where
two stages of the method share a node, the stiffness estimate

.. math:: S_j = \lVert k_s - k_{s-1} \rVert / \lVert Y_s - Y_{s-1} \rVert ,

an estimate of the largest :math:`|\lambda|` of the Jacobian.

References
----------
A. Pal, Y. Ma, V. Shah, C. Rackauckas, Opening the blackbox: accelerating neural differential equations by
regularizing internal solver heuristics, ICML 2021.
A. Pal, A. Edelman, C. Rackauckas, Locally regularized neural differential equations, ICML 2023.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.loop import Trace
from scidyn.solvers.methods.explicit_rk import ExplicitRK

__all__ = ["Regularization", "check_regularize", "regularised", "with_nodes"]

KINDS = ("error", "stiffness", "local_error", "local_stiffness")


@dataclass(frozen=True)
class Regularization:
    """Difficulty of the accepted steps.

    Attributes
    ----------
    value : Tensor, scalar
        Mean over samples of the sum over steps of ``error * h`` or of ``stiffness``; for a local kind, that of
        one random step of each sample. Differentiable.
    error, stiffness : Tensor, shape (batch, steps)
        Scaled error and stiffness estimate; ``stiffness`` is None if no two stages share a node.
        Zero where a sample did not move.
    t, h : Tensor, shape (batch, steps)
        Starts and sizes of the steps, in increasing time.
    """

    value: Tensor
    error: Tensor
    stiffness: Tensor | None
    t: Tensor
    h: Tensor


def check_regularize(problem: Problem, kind: str, adjoint: str | None) -> None:
    """Refuse a kind that the method or the adjoint cannot give.

    Raises
    ------
    OptionError
        If the method has no estimate of this kind, or the adjoint gives no gradient of inner states.
    """
    choice("regularize", kind, KINDS)
    method = problem.method
    if not isinstance(method, ExplicitRK) or method.tableau.error is None:
        raise OptionError(
            f"regularize needs an explicit method with an error estimate; got {method.name!r}: use 'tsit5' or 'dopri5'."
        )
    if "stiffness" in kind and not _has_pair(method):
        raise OptionError(f"method {method.name!r} has no two stages at one time: use 'tsit5' or 'dopri5'.")
    if adjoint not in ("discrete", "direct", None) and not kind.startswith("local"):
        raise OptionError(f"regularize={kind!r} with adjoint={adjoint!r}: use 'local_error' or adjoint='discrete'.")


def with_nodes(problem: Problem, trace: Trace) -> tuple[Problem, Trace]:
    """Report the starts of all steps after the wanted times, so that they get gradients like these."""
    columns = problem.times.shape[0]
    times = torch.cat([problem.times, trace.times[:-1, :columns].T], dim=1)
    y = torch.cat([trace.y, trace.states.transpose(0, 1)], dim=1)
    return problem._replace(times=times), trace._replace(y=y)


def regularised(problem: Problem, trace: Trace, kind: str, states: Tensor, seed: int) -> Regularization:
    """Take the recorded steps from ``states`` (steps, batch, D) once more and weigh them."""
    times, size = trace.times[:-1].detach(), trace.size
    batch = problem.y0.shape[0]
    if kind.startswith("local"):
        chosen = _sample_step(size.expand(-1, batch), seed)
        rows = torch.arange(batch, device=size.device)
        if times.shape[1] == 1:
            # steps are shared: one of them serves all samples
            times, size, states = times[chosen[:1]], size[chosen[:1]], states[chosen[:1]].detach()
        else:
            times, size = times[chosen, rows].unsqueeze(0), size[chosen, rows].unsqueeze(0)
            states = states[chosen, rows].unsqueeze(0).detach()
    errors, stiffnesses = [], []
    for t, h, y in zip(times, size, states, strict=True):
        error, stiffness = _difficulty(problem, t, h, y)
        errors.append(error)
        stiffnesses.append(stiffness)
    error = torch.stack(errors, dim=1)
    moved = size.T.expand(batch, -1).to(error.dtype)
    parts = [s for s in stiffnesses if s is not None]
    stiff = torch.stack(parts, dim=1) if parts else None
    measure = error * moved if "error" in kind or stiff is None else stiff
    return Regularization(measure.sum(dim=1).mean(), error, stiff, times.T.expand(batch, -1), size.T.expand(batch, -1))


def _sample_step(size: Tensor, seed: int) -> Tensor:
    """Draw an accepted step of each column of ``size`` (steps, batch) with equal chances, so hard regions often."""
    generator = torch.Generator().manual_seed(seed)
    weights = (size > 0).T.to("cpu", torch.float64)
    weights = torch.where(weights.sum(dim=1, keepdim=True) > 0, weights, 1.0)
    return torch.multinomial(weights, 1, generator=generator).squeeze(1).to(size.device)


def _difficulty(problem: Problem, t: Tensor, h: Tensor, y: Tensor) -> tuple[Tensor, Tensor | None]:
    """Scaled error and stiffness estimate of one step for each sample."""
    stages: list[tuple[Tensor, Tensor]] = []

    def noted(when: Tensor, state: Tensor) -> Tensor:
        rate = problem.field(when, state)
        stages.append((state, rate))
        return rate

    method, moved = problem.method, h > 0
    taken = method.step(noted, t, h, y, method.begin(noted, t, y, noted(t, y)), problem.tolerance)
    scale = problem.tolerance.scale(torch.maximum(y.abs(), taken.y1.abs()))
    ratio = torch.zeros_like(y) if taken.err is None else taken.err / scale
    error = _root((ratio.abs() ** 2).mean(dim=-1), moved)
    if not _has_pair(method):
        return error, None
    (y_one, k_one), (y_two, k_two) = stages[-2:]
    above, below = ((k_two - k_one).abs() ** 2).sum(dim=-1), ((y_two - y_one).abs() ** 2).sum(dim=-1)
    return error, _root(above / torch.where(below > 0, below, torch.ones_like(below)), moved & (below > 0))


def _root(square: Tensor, valid: Tensor) -> Tensor:
    """Square root with gradient zero at zero and where not ``valid``."""
    usable = valid & (square > 0)
    return torch.where(usable, torch.where(usable, square, 1.0).sqrt(), 0.0)


def _has_pair(method: object) -> bool:
    """True if the last two stages are at the end of the step."""
    nodes: Sequence[float] = method.tableau.c if isinstance(method, ExplicitRK) else (0.0, 1.0)
    return nodes[-1] == nodes[-2] == 1.0
