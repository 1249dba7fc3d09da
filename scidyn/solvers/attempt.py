"""One masked attempt of a step for every sample: a pure function that the host never waits for."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.controller import Controller, Tolerance, error_ratio, resize
from scidyn.solvers.methods.stepper import Method, Rate
from scidyn.solvers.status import Status

__all__ = ["Bounds", "LoopState", "Outcome", "attempt", "attempts"]

SMALLEST_PREVIOUS_RATIO = 1e-4
UNSOLVED = 0.25
RUNNING, SUCCESS, MAX_STEPS = Status.RUNNING.value, Status.SUCCESS.value, Status.MAX_STEPS.value
STEP_UNDERFLOW, NON_FINITE_STATE = Status.STEP_UNDERFLOW.value, Status.NON_FINITE_STATE.value


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
        Error ratios of the last two accepted steps.
    status : Tensor of int8
        Codes of :class:`Status`.
    accepted, rejected : Tensor of int32
        Attempts so far.
    """

    t: Tensor
    h: Tensor
    y: Tensor
    carry: tuple[Tensor, ...]
    previous: tuple[Tensor, Tensor]
    status: Tensor
    accepted: Tensor
    rejected: Tensor


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
    """

    tolerance: Tolerance
    end: Tensor
    dt_min: Tensor
    dt_max: Tensor
    max_steps: Tensor
    slack: Tensor


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


def attempts(
    count: int, rate: Rate, method: Method, controller: Controller, bounds: Bounds, state: LoopState
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
    rate: Rate, method: Method, controller: Controller, bounds: Bounds, state: LoopState
) -> tuple[LoopState, Tensor, tuple[Tensor, ...], Tensor | None]:
    """Try one step for every running sample; one that is finished, failed or rejected moves by zero.

    Gives the new state, the accepted sizes, the polynomial and the formulas used. Nothing is read by the host.
    """
    running = state.status == RUNNING
    remaining = bounds.end - state.t
    last = state.h >= remaining - bounds.slack
    h = torch.where(running, torch.where(last, remaining, state.h), 0.0)
    taken = method.step(rate, state.t, h, state.y, state.carry, bounds.tolerance)
    if taken.err is None:
        raise OptionError(f"method {method.name!r} has no error estimate: use stepping='fixed'.")
    ratio = error_ratio(bounds.tolerance, state.y, taken.y1, taken.err)
    accept = running & (ratio <= 1.0)
    factor = resize(controller, ratio, state.previous, accept, method.error_order)
    if taken.failed is not None:
        failed = _agree(taken.failed, ratio)
        accept, factor = accept & ~failed, torch.where(failed, UNSOLVED, factor)
    proposal = torch.minimum(h * factor.to(h.dtype), bounds.dt_max)
    reject, reached = running & ~accept, accept & last
    accepted, rejected = state.accepted + accept, state.rejected + reject
    status = _status(bounds, state, proposal, ratio, reject)
    status = torch.where(
        running & ~reached & (accepted + rejected >= bounds.max_steps) & (status == RUNNING), MAX_STEPS, status
    )
    status = torch.where(reached, SUCCESS, status).to(torch.int8)
    kept = ratio.clamp_min(SMALLEST_PREVIOUS_RATIO)
    following = LoopState(
        t=torch.where(accept, torch.where(last, bounds.end, state.t + h), state.t),
        h=torch.where(running, proposal, state.h),
        y=torch.where(accept.unsqueeze(-1), taken.y1, state.y),
        carry=tuple(
            torch.where(_aligned(accept, new), new, old)
            for new, old in zip(taken.carry, taken.retry or state.carry, strict=True)
        ),
        previous=(
            torch.where(accept, kept, state.previous[0]),
            torch.where(accept, state.previous[0], state.previous[1]),
        ),
        status=status,
        accepted=accepted,
        rejected=rejected,
    )
    return following, torch.where(accept, h, 0.0), taken.coef, taken.choice


def _status(bounds: Bounds, state: LoopState, proposal: Tensor, ratio: Tensor, reject: Tensor) -> Tensor:
    """Fail the samples whose step cannot shrink any further."""
    # a step is hopeless once it is lost in the rounding of t; a start at zero may need tiny ones
    smallest = 16.0 * torch.finfo(proposal.dtype).eps * torch.maximum(state.t.abs(), 1e-15 * bounds.end.abs())
    underflow = reject & (proposal <= torch.maximum(smallest, bounds.dt_min))
    code = torch.where(torch.isfinite(ratio), STEP_UNDERFLOW, NON_FINITE_STATE)
    return torch.where(underflow, code, state.status)


def _agree(flag: Tensor, like: Tensor) -> Tensor:
    """Reduce a flag per sample to the shape that all samples may share."""
    return flag if flag.shape == like.shape else flag.any().reshape(1).expand(like.shape)


def _aligned(flag: Tensor, value: Tensor) -> Tensor:
    """Give a flag of shape (1,) or (batch,) the trailing axes of ``value``."""
    return flag.reshape(-1, *[1] * (value.ndim - 1))
