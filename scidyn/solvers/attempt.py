"""One masked attempt of a step for every sample: a pure function that the host never waits for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.controller import Controller, Tolerance, error_ratio
from scidyn.solvers.methods.stepper import Method, Rate, Step
from scidyn.solvers.predictive import Gustafsson
from scidyn.solvers.status import Status
from scidyn.solvers.trial import Trial

__all__ = ["Bounds", "LoopState", "Outcome", "attempt", "attempts", "steps_per_read"]

UNSOLVED = 0.25
# a processor waits for nothing when the host reads; an accelerator would stand still
STEPS_PER_READ = {"cpu": 1}
STEPS_PER_READ_ELSEWHERE = 16
RUNNING, SUCCESS, MAX_STEPS = Status.RUNNING.value, Status.SUCCESS.value, Status.MAX_STEPS.value
STEP_UNDERFLOW, NON_FINITE_STATE = Status.STEP_UNDERFLOW.value, Status.NON_FINITE_STATE.value
NEWTON_FAILED, LINEAR_SOLVE_FAILED = Status.NEWTON_FAILED.value, Status.LINEAR_SOLVE_FAILED.value


class LoopState(NamedTuple):
    """Where the loop is; time-like entries have shape (1,) or (batch,).

    Attributes
    ----------
    t, h : Tensor
        Time reached and step to try next.
    y : Tensor, shape (batch, D)
        State.
    carry : tuple of Tensor
        What the method's next step starts from.
    previous : tuple of two Tensors
        What the controller remembers of the last accepted steps.
    status : Tensor of int8
        Codes of :class:`Status`.
    accepted, rejected : Tensor of int32
        Attempts so far.
    work : tuple of two Tensors of int32, shape (batch,), or None
        Jacobians and matrix factorisations so far, of an implicit method.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    carry: tuple[Tensor, ...]
    previous: tuple[Tensor, Tensor]
    status: Tensor
    accepted: Tensor
    rejected: Tensor
    work: tuple[Tensor, Tensor] | None = None


class Bounds(NamedTuple):
    """What is fixed during a solve and every attempt needs.

    Attributes
    ----------
    tolerance : Tolerance
        Allowed error.
    end, dt_min, dt_max : Tensor, shape (1,) or (batch,)
        Last time, smallest and largest step.
    max_steps : Tensor
        Largest number of attempts, a scalar.
    slack : Tensor
        A step that ends this close to the last time ends there.
    targets : Tensor, shape (1 or batch, K), or None
        Increasing times on which steps end exactly, padded with infinity.
    """

    tolerance: Tolerance
    end: Tensor
    dt_min: Tensor
    dt_max: Tensor
    max_steps: Tensor
    slack: Tensor
    targets: Tensor | None = None


class Outcome(NamedTuple):
    """Result of one attempt, or of K attempts in a row whose records are stacked.

    Attributes
    ----------
    state : LoopState
        Where the loop is now.
    times, size : Tensor, shape (K, 1 or batch)
        Times at the ends of the attempts and accepted steps; a size is zero for a sample that did not move.
    states : Tensor, shape (K, batch, D)
        States before each attempt.
    coef : Tensor, shape (K, P, batch, D)
        Polynomials of the steps.
    flags : Tensor of bool, shape (K + 1,)
        Whether any sample moved in each attempt, and whether any is still running.
    choice : Tensor, shape (K, batch), or None
        Formulas used, of a method that has several.
    """

    state: LoopState
    times: Tensor
    size: Tensor
    states: Tensor
    coef: Tensor
    flags: Tensor
    choice: Tensor | None = None


def steps_per_read(device: torch.device) -> int:
    """Attempts between two reads of the host."""
    return STEPS_PER_READ.get(device.type, STEPS_PER_READ_ELSEWHERE)


def attempts(
    count: int, rate: Rate, method: Method, controller: Controller | Gustafsson, bounds: Bounds, state: LoopState
) -> Outcome:
    """Make ``count`` attempts in a row and stack their records; the host reads nothing."""
    states, sizes, coefs, times = [], [], [], []
    choices: list[Tensor] = []
    for _ in range(count):
        states.append(state.y)
        state, size, coef, choice = attempt(rate, method, controller, bounds, state)
        sizes.append(size)
        coefs.append(torch.stack(coef))
        times.append(state.t)
        if choice is not None:
            choices.append(choice)
    size = torch.stack(sizes)
    running = (state.status == RUNNING).any().reshape(1)
    flags = torch.cat([(size > 0).any(dim=1), running])
    used = torch.stack(choices) if choices else None
    return Outcome(state, torch.stack(times), size, torch.stack(states), torch.stack(coefs), flags, used)


def attempt(
    rate: Rate, method: Method, controller: Controller | Gustafsson, bounds: Bounds, state: LoopState
) -> tuple[LoopState, Tensor, tuple[Tensor, ...], Tensor | None]:
    """Try one step for every running sample; one that is finished, failed or rejected moves by zero.

    Gives the new state, the accepted sizes, the polynomial and the formulas used. Nothing is read by the host.
    """
    running = state.status == RUNNING
    stop = _stop(bounds, state.t)
    remaining = stop - state.t
    landing = state.h >= remaining - bounds.slack
    h = torch.where(running, torch.where(landing, remaining, state.h), 0.0)
    taken = method.step(rate, state.t, h, state.y, state.carry, bounds.tolerance)
    if taken.err is None:
        raise OptionError(f"method {method.name!r} has no error estimate: use stepping='fixed'.")
    ratio = error_ratio(bounds.tolerance, state.y, taken.y1, taken.err)
    solved = running if taken.failed is None else running & ~_agree(taken.failed, ratio)
    accept = solved & (ratio <= 1.0)
    trial = Trial(ratio, accept, h, method.error_order, _largest(taken.iterations, ratio), taken.most)
    factor = controller.factor(trial, state.previous)
    if taken.failed is not None:
        factor = torch.where(solved, factor, UNSOLVED)
    proposal = torch.minimum(h * factor.to(h.dtype), bounds.dt_max)
    if bounds.targets is not None:
        # a step cut short to land on a time says little about the next one
        proposal = torch.where(accept & landing, torch.maximum(proposal, state.h), proposal)
    reject, reached = running & ~accept, accept & landing & (stop >= bounds.end)
    accepted, rejected = state.accepted + accept, state.rejected + reject
    status = _status(bounds, state, taken, proposal, ratio, reject)
    status = torch.where(
        running & ~reached & (accepted + rejected >= bounds.max_steps) & (status == RUNNING), MAX_STEPS, status
    )
    status = torch.where(reached, SUCCESS, status).to(torch.int8)
    following = LoopState(
        t=torch.where(accept, torch.where(landing, stop, state.t + h), state.t),
        h=torch.where(running, proposal, state.h),
        y=torch.where(accept.unsqueeze(-1), taken.y1, state.y),
        carry=tuple(
            torch.where(_aligned(accept, new), new, old)
            for new, old in zip(taken.carry, taken.retry or state.carry, strict=True)
        ),
        previous=controller.remember(trial, state.previous),
        status=status,
        accepted=accepted,
        rejected=rejected,
        work=_added(state.work, taken.work, running),
    )
    return following, torch.where(accept, h, 0.0), taken.coef, taken.choice


def _stop(bounds: Bounds, t: Tensor) -> Tensor:
    """Time at which the step must end at the latest."""
    if bounds.targets is None:
        return bounds.end
    index = torch.searchsorted(bounds.targets, t.unsqueeze(1), right=True).clamp_max(bounds.targets.shape[1] - 1)
    found = bounds.targets.gather(1, index).squeeze(1)
    return torch.where(found > t, torch.minimum(found, bounds.end), bounds.end)


def _status(bounds: Bounds, state: LoopState, taken: Step, proposal: Tensor, ratio: Tensor, reject: Tensor) -> Tensor:
    """Fail the samples whose step cannot shrink any further."""
    # a step is hopeless once it is lost in the rounding of t; a start at zero may need tiny ones
    smallest = 16.0 * torch.finfo(proposal.dtype).eps * torch.maximum(state.t.abs(), 1e-15 * bounds.end.abs())
    underflow = reject & (proposal <= torch.maximum(smallest, bounds.dt_min))
    code = torch.where(torch.isfinite(ratio), STEP_UNDERFLOW, NON_FINITE_STATE)
    if taken.failed is not None:
        code = torch.where(_agree(taken.failed, ratio), NEWTON_FAILED, code)
    if taken.singular is not None:
        code = torch.where(_agree(taken.singular, ratio), LINEAR_SOLVE_FAILED, code)
    return torch.where(underflow, code, state.status)


def _largest(count: Tensor | None, like: Tensor) -> Tensor | None:
    """Reduce a number per sample to the shape that all samples may share."""
    return count if count is None or count.shape == like.shape else count.amax().reshape(1).expand(like.shape)


def _added(
    before: tuple[Tensor, Tensor] | None, new: tuple[Tensor, Tensor] | None, running: Tensor
) -> tuple[Tensor, Tensor] | None:
    """Count Jacobians and factorisations of the samples that are running."""
    if before is None or new is None:
        return before
    return before[0] + new[0] * running, before[1] + new[1] * running


def _agree(flag: Tensor, like: Tensor) -> Tensor:
    """Reduce a flag per sample to the shape that all samples may share."""
    return flag if flag.shape == like.shape else flag.any().reshape(1).expand(like.shape)


def _aligned(flag: Tensor, value: Tensor) -> Tensor:
    """Give a flag of shape (1,) or (batch,) the trailing axes of ``value``."""
    return flag.reshape(-1, *[1] * (value.ndim - 1))
