"""Solve with torchdiffeq and give the result in the form of the native solver."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import LoopState
from scidyn.solvers.loop import Trace
from scidyn.solvers.status import Status

__all__ = ["solve", "suits"]

# names here and there
NAMES = {
    "euler": "euler",
    "midpoint": "midpoint",
    "heun": "heun2",
    "rk4": "rk4",
    "bosh3": "bosh3",
    "dopri5": "dopri5",
    "dopri8": "dopri8",
}


def suits(problem: Problem, dense: bool, compile: bool | str, controller: object) -> None:
    """Refuse what torchdiffeq cannot do."""
    name = problem.method.name
    if name not in NAMES:
        raise OptionError(f"torchdiffeq has no method {name!r}: pass method='dopri5' or backend='native'.")
    refused = {
        "stepping='per_sample'": problem.stepping == "per_sample",
        "stepping='fixed' with an adaptive method": problem.stepping == "fixed" and problem.method.adaptive,
        "dense=True": dense,
        "compile=True": compile is True,
        "controller": controller is not None,
    }
    for option, given in refused.items():
        if given:
            raise OptionError(f"backend='torchdiffeq' does not support {option}: leave it out or use backend='native'.")


class _Counted:
    """The field with the signature and the callbacks that torchdiffeq calls."""

    def __init__(self, problem: Problem) -> None:
        self._field = problem.field
        self.calls = self.accepted = self.rejected = 0

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        self.calls += 1
        return self._field(t.reshape(1), y)

    def callback_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.accepted += 1

    def callback_accept_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        # each attempt was counted as a step before it was judged
        pass

    def callback_reject_step(self, t0: Tensor, y0: Tensor, dt: Tensor) -> None:
        self.accepted -= 1
        self.rejected += 1


def solve(problem: Problem, y0: Tensor, adjoint: str | None, inputs: Sequence[Tensor]) -> Trace:
    """Solve; with ``adjoint="backsolve"`` by the continuous adjoint, else autograd goes through the solver."""
    from torchdiffeq import odeint, odeint_adjoint

    times, position = torch.unique_consecutive(problem.times[0].detach(), return_inverse=True)
    counted = _Counted(problem)
    options = {"options": _options(problem), "method": NAMES[problem.method.name]}
    options |= {"rtol": problem.tolerance.rtol, "atol": problem.tolerance.atol}
    status = Status.SUCCESS
    if len(times) == 1:
        rows = y0.unsqueeze(0)
    else:
        try:
            if adjoint == "backsolve":
                rows = odeint_adjoint(counted, y0, times, adjoint_params=tuple(inputs), **options)
            else:
                rows = odeint(counted, y0, times, **options)
        except AssertionError as reason:
            status = _status(str(reason))
            rows = torch.cat([y0.unsqueeze(0), y0.new_full((len(times) - 1, *y0.shape), torch.nan)])
    return _trace(problem, counted, rows[position].transpose(0, 1), times, status)


def _options(problem: Problem) -> dict[str, Any]:
    """Step bounds under torchdiffeq's names."""
    if problem.stepping == "fixed":
        return {} if problem.dt0 is None else {"step_size": problem.dt0}
    found: dict[str, Any] = {"max_num_steps": problem.max_steps}
    for name, value in (("first_step", problem.dt0), ("min_step", problem.dt_min), ("max_step", problem.dt_max)):
        if value is not None:
            found[name] = value
    if problem.tolerance.worst:
        found["norm"] = _worst(problem.y0.shape)
    return found


def _worst(shape: torch.Size) -> Callable[[Tensor], Tensor]:
    """Root mean square of the worst sample."""

    def norm(y: Tensor) -> Tensor:
        rows = y.reshape(shape) if y.numel() == shape.numel() else y.reshape(1, -1)
        return rows.abs().square().mean(dim=-1).sqrt().amax()

    return norm


def _status(sentence: str) -> Status:
    """Translate the message of a failed assertion."""
    if "max_num_steps" in sentence:
        return Status.MAX_STEPS
    if "non-finite" in sentence:
        return Status.NON_FINITE_STATE
    return Status.STEP_UNDERFLOW


def _trace(problem: Problem, counted: _Counted, y: Tensor, times: Tensor, status: Status) -> Trace:
    """Fill the record of a solve; a sample with a state that is not finite has failed."""
    finite = torch.isfinite(y.detach()).all(dim=-1)
    good = finite.all(dim=1)
    fallback = Status.NON_FINITE_STATE.value if status is Status.SUCCESS else status.value
    codes = torch.where(good, Status.SUCCESS.value, fallback).to(torch.int8)
    last = finite.to(torch.int64).cumprod(dim=1).sum(dim=1) - 1
    reached = problem.times[0].detach()[last.clamp_min(0)]
    count = torch.ones_like(codes, dtype=torch.int32)
    end, empty = y.detach()[:, -1], times.new_zeros(0, 1)
    one = end.real.new_ones(len(codes))
    final = LoopState(
        reached, 0 * reached, end, (), (one, one), codes, count * counted.accepted, count * counted.rejected
    )
    return Trace(
        y.masked_fill(~finite.unsqueeze(-1), torch.nan),
        times[:1].unsqueeze(1),
        empty,
        end.new_zeros(0, *end.shape),
        None,
        final,
        0 * reached,
        1 + counted.calls,
        0,
    )
