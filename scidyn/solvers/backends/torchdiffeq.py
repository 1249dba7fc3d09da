"""The solvers of torchdiffeq, called with scidyn's arguments: a second opinion and an oracle."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import OptionError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.controller import Controller
from scidyn.solvers.solution import Solution, Stats
from scidyn.solvers.status import Status

__all__ = ["solve"]

METHODS = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun": "heun2",
    "rk4": "rk4",
    "bosh3": "bosh3",
    "dopri5": "dopri5",
    "dopri8": "dopri8",
}
FIXED = ("euler", "midpoint", "heun", "rk4")


class _Counted(torch.nn.Module):
    """The field on rows, counting evaluations."""

    def __init__(self, problem: Problem) -> None:
        super().__init__()
        self.field = problem.field
        self.evaluations = self.accepted = self.rejected = 0
        self.reached = float(problem.start[0])

    def forward(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate the rate of all rows at the scalar time ``t``."""
        self.evaluations += 1
        return self.field(t.reshape(1), y)


class _CountedSteps(_Counted):
    """Counts steps too: adaptive solvers of torchdiffeq call these two."""

    def callback_accept_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        """Note an accepted step."""
        self.accepted += 1
        self.reached = float((t + dt).detach())

    def callback_reject_step(self, t: Tensor, y: Tensor, dt: Tensor) -> None:
        """Note a rejected step."""
        self.rejected += 1


def solve(problem: Problem, adjoint: str | None) -> Solution:
    """Solve with :func:`torchdiffeq.odeint`; autograd goes through its steps, so the gradient is discrete.

    Raises
    ------
    scidyn.errors.OptionError
        If the problem asks for what torchdiffeq does not offer.
    """
    from torchdiffeq import odeint

    _check(problem)
    fixed = problem.stepping == "fixed"
    counted = _Counted(problem) if fixed else _CountedSteps(problem)
    times = problem.times[0]
    options: dict[str, Any] = {}
    if fixed:
        options = {} if problem.dt0 is None else {"step_size": problem.dt0}
    else:
        limits = {"first_step": problem.dt0, "max_num_steps": problem.max_steps}
        options = {key: value for key, value in limits.items() if value is not None}
        if not problem.tolerance.worst:
            options["norm"] = lambda y: y.abs().square().mean().sqrt()
        else:
            options["norm"] = lambda y: y.abs().square().mean(dim=-1).amax().sqrt()
    with torch.set_grad_enabled(adjoint is not None and torch.is_grad_enabled()):
        status, y = Status.SUCCESS, None
        try:
            y = odeint(
                counted,
                problem.y0,
                times.to(problem.y0.real.dtype),
                method=METHODS[problem.method.name],
                rtol=float(problem.tolerance.rtol),
                atol=float(problem.tolerance.atol),
                options=options,
            ).transpose(0, 1)
        except AssertionError as reason:  # torchdiffeq states its failures as assertions
            status = Status.MAX_STEPS if "max_num_steps" in str(reason) else Status.STEP_UNDERFLOW
    if y is None:
        y = torch.full(
            (*problem.y0.shape[:1], len(times), problem.y0.shape[1]),
            torch.nan,
            dtype=problem.y0.dtype,
            device=problem.y0.device,
        )
    return _solution(problem, counted, y, status)


def _check(problem: Problem) -> None:
    choice("method with backend='torchdiffeq'", problem.method.name, METHODS)
    fixed = problem.stepping == "fixed"
    if problem.stepping == "per_sample" or fixed != (problem.method.name in FIXED):
        wanted = "fixed" if problem.method.name in FIXED else "shared"
        raise OptionError(
            f"backend='torchdiffeq' offers stepping={wanted!r} for {problem.method.name!r}; got {problem.stepping!r}."
        )
    if problem.dt_max is not None or problem.dt_min is not None or problem.controller != Controller():
        raise OptionError("backend='torchdiffeq' has no dt_min, dt_max or controller; leave them out.")
    if problem.tolerance.atol.ndim:
        raise OptionError("backend='torchdiffeq' takes one atol for all components; pass a number.")
    if bool((problem.times[0, 1:] <= problem.times[0, :-1]).any()) or problem.times.shape[1] < 2:
        raise OptionError("backend='torchdiffeq' needs two or more times, all different; leave duplicates out.")


def _solution(problem: Problem, counted: _Counted, y: Tensor, status: Status) -> Solution:
    batch = y.shape[0]
    bad = ~torch.isfinite(y.detach()).all(dim=-1)
    # what follows a state that is not finite was computed from it
    lost = bad.cumsum(dim=1) > 0
    statuses = tuple(
        Status.NON_FINITE_STATE if status is Status.SUCCESS and broken else status for broken in lost.any(1).tolist()
    )
    accepted = counted.accepted if problem.stepping != "fixed" else problem.times.shape[1] - 1

    def whole(count: int) -> Tensor:
        return torch.full((batch,), count, dtype=torch.int32, device=y.device)

    end = float(problem.end[0]) if all(s.success for s in statuses) else counted.reached
    stats = Stats(
        n_accepted=whole(accepted),
        n_rejected=whole(counted.rejected),
        evaluations=counted.evaluations,
        host_reads=counted.accepted + counted.rejected,
        reached=torch.full((batch,), problem.field.sign * end, dtype=problem.times.dtype, device=y.device),
    )
    y = y.masked_fill(lost.unsqueeze(-1), torch.nan)
    return Solution(problem.user_times, y.reshape(batch, y.shape[1], *problem.state), statuses, stats)
