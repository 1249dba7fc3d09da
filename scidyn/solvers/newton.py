"""Simplified Newton iteration for the stage equations of implicit methods."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.linear.jacobian import TimeAndState
from scidyn.solvers.linear.linearisation import Factored, Linearisation
from scidyn.solvers.precision import power

__all__ = ["NewtonSettings", "Stage", "StageSolution", "attach_stage", "reads_are_cheap", "solve_stage"]

Rate = Callable[[Tensor, Tensor], Tensor]
LEAST_FACTOR = 0.02


class NewtonSettings(NamedTuple):
    """When an iteration stops.

    Attributes
    ----------
    iterations : int
        Largest number of iterations.
    fraction : float
        The remaining error may be this part of the error allowed for the step.
    """

    iterations: int = 10
    fraction: float = 1e-2


class Stage(NamedTuple):
    """The equation ``u = h f(t, base + gamma u)`` for the increment u of one stage.

    Attributes
    ----------
    t : Tensor, shape (1,) or (batch,)
        Time of the stage.
    h : Tensor, shape (1, 1) or (batch, 1)
        Size of the step.
    base : Tensor, shape (batch, D)
        Part of the stage's state that is known.
    gamma : float
        Diagonal coefficient of the method.
    """

    t: Tensor
    h: Tensor
    base: Tensor
    gamma: float

    def residual(self, rate: Rate, u: Tensor) -> Tensor:
        """Give ``h f(t, base + gamma u) - u``."""
        return self.h * rate(self.t, torch.add(self.base, u, alpha=self.gamma)) - u


def reads_are_cheap(value: Tensor) -> bool:
    """True on a CPU, outside of a compiled step: there a loop may end as soon as its samples are done."""
    return value.device.type == "cpu" and not torch.compiler.is_compiling()


class StageSolution(NamedTuple):
    """Increment of a stage, whether each sample converged, how fast (error left / last change), and iterations."""

    u: Tensor
    converged: Tensor
    factor: Tensor
    iterations: Tensor


def solve_stage(
    rate: Rate,
    stage: Stage,
    matrix: Factored,
    guess: Tensor,
    scale: Tensor,
    factor: Tensor,
    settings: NewtonSettings,
) -> StageSolution:
    r"""Iterate :math:`u \leftarrow u + M^{-1}(h f(t, z + \gamma u) - u)` until the error left is small.

    With the contraction :math:`\rho` of successive changes :math:`\delta`, the error left is
    :math:`\delta\,\rho / (1 - \rho)`. ``factor`` is :math:`\rho / (1 - \rho)` of the stage before, which
    allows the first change to be the last. Samples that have converged or diverged are frozen; on a
    CPU the loop ends once no sample is left, elsewhere it runs to the end and the host reads nothing.

    References
    ----------
    E. Hairer, G. Wanner, Solving Ordinary Differential Equations II, section IV.8.
    """
    u = guess
    on_host = reads_are_cheap(u)
    allowed = settings.fraction
    active = torch.ones(u.shape[0], dtype=torch.bool, device=u.device)
    converged = ~active
    # an old contraction is trusted less and less, so that it is measured anew after a few stages
    factor = power(factor.clamp_min(LEAST_FACTOR), 0.8)
    before: Tensor | None = None
    count = torch.zeros(u.shape[0], dtype=torch.int32, device=u.device)
    for _ in range(settings.iterations):
        count = count + active
        change = matrix.solve(stage.residual(rate, u))
        size = stage.gamma * (change / scale).square().mean(dim=-1).sqrt()
        if before is not None:
            ratio = size / before
            slow = ratio / (1.0 - ratio)
            factor = torch.where(active, torch.where(ratio < 1.0, slow, torch.inf), factor)
        # a change at the level of rounding cannot be improved
        done = (size * factor <= allowed) | (size <= 1e-3 * allowed)
        going = torch.isfinite(size) if before is None else size <= 2.0 * before
        u = torch.where(active.unsqueeze(-1), u + change, u)
        converged = converged | (active & done)
        active = active & going & ~done
        if on_host and not bool(active.any()):
            break
        before = size
    return StageSolution(u, converged, factor, count)


def attach_stage(
    rate: Rate,
    stage: Stage,
    matrix: Factored,
    linearisation: Linearisation,
    guess: Tensor,
    scale: Tensor,
) -> Tensor:
    r"""Solve a stage to rounding and give its increment with the derivatives of the implicit function.

    With :math:`M = I - h \gamma J` at the solution, :math:`M\,\mathrm{d}u = h\,\mathrm{d}f`: the backward
    pass makes one solve with :math:`M^T`. Two Newton corrections with M held constant, started from the
    detached solution, have the right first and second derivatives. Where autograd records nothing, the
    solution alone is given.
    """
    recorded = torch.is_grad_enabled()
    with torch.no_grad():
        plain = stage._replace(base=stage.base.detach())
        factor = torch.ones_like(scale[:, 0])
        if not recorded:
            return solve_stage(rate, plain, matrix, guess, scale, factor, NewtonSettings(16, 1e-7)).u
        u = solve_stage(rate, plain, matrix, guess.detach(), scale, factor, NewtonSettings(12, 0.1)).u
        state = torch.add(plain.base, u, alpha=stage.gamma)
        where = TimeAndState(stage.t, stage.h.squeeze(-1), state, rate(stage.t, state), scale)
        h = stage.h.squeeze(-1) * stage.gamma
        at_solution = linearisation.at(rate, where, exact=True, time=False).factored(h)
        u = u + at_solution.solve(plain.residual(rate, u))
    u = u + at_solution.solve(stage.residual(rate, u))
    u = SecondOrderOnly.apply(u)
    return u + at_solution.solve(stage.residual(rate, u))


class SecondOrderOnly(torch.autograd.Function):
    """The identity, whose first cotangent is known to vanish: it is dropped unless a graph of it is built."""

    @staticmethod
    def forward(ctx: Any, u: Tensor) -> Tensor:
        """Pass the value on."""
        ctx.differentiated_twice = False
        return u.view_as(u)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor | None:
        """Pass the cotangent on from the first backward pass on that builds a graph."""
        ctx.differentiated_twice = ctx.differentiated_twice or torch.is_grad_enabled()
        return grad if ctx.differentiated_twice else None
