"""Why a sample stopped: a few evaluations after the fact instead of work in every step."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidyn.solvers.status import Status

if TYPE_CHECKING:
    from scidyn.solvers.arguments import Problem
    from scidyn.solvers.attempt import LoopState

__all__ = ["diagnose", "spectral_size"]

GROWTH = 1e6
STIFF_PRODUCT = 1.0
POWER_ITERATIONS = 12
PROBES = (1.0, 5.0, 25.0, 125.0)


def diagnose(problem: Problem, state: LoopState, last_size: Tensor) -> Tensor:
    """Refine the statuses of failed samples; returns codes of the shape of ``state.status``.

    A stop after a millionfold growth of the state is a blow-up; one at NaN, or at equations that could not be
    solved, is laid on ``f`` if ``f`` is not finite at finite states nearby; too many steps of an explicit method
    with ``h |λ|`` at the stability limit suggest stiffness.
    """
    status = state.status
    failed = status > Status.SUCCESS.value
    if not bool(failed.any()):
        return status
    field, y = problem.field, state.y
    start = problem.y0.detach().abs().amax(dim=-1).clamp_min(1.0)
    grown = _agree(y.abs().amax(dim=-1) > GROWTH * start, status)
    rate = field(state.t, y)
    unsolved = (status == Status.NEWTON_FAILED.value) | (status == Status.LINEAR_SOLVE_FAILED.value)
    broken = (status == Status.NON_FINITE_STATE.value) | unsolved
    stopped = (status == Status.STEP_UNDERFLOW.value) | broken
    bad_rate = _agree(_rate_fails(problem, state, rate), status)
    status = torch.where(broken & bad_rate, Status.NON_FINITE_RHS.value, status)
    status = torch.where(stopped & grown, Status.BLOW_UP.value, status)
    tired = status == Status.MAX_STEPS.value
    if bool(tired.any()) and not problem.method.implicit:
        stiff = _agree(spectral_size(problem, state, rate) * last_size > STIFF_PRODUCT, status)
        status = torch.where(tired & stiff, Status.STIFFNESS_SUSPECTED.value, status)
    return status.to(torch.int8)


def _rate_fails(problem: Problem, state: LoopState, rate: Tensor) -> Tensor:
    """True for each sample where ``f`` is not finite at a finite state near the end, shape (batch,)."""
    y, h = state.y, torch.where(state.h > 0, state.h, torch.full_like(state.h, 1e-3))
    fails = ~torch.isfinite(rate).all(dim=-1)
    for factor in PROBES:
        trial = y + (factor * h).to(y.real.dtype).unsqueeze(-1) * rate
        second = problem.field(state.t + factor * h, trial)
        fails |= torch.isfinite(trial).all(dim=-1) & ~torch.isfinite(second).all(dim=-1)
    return fails


def spectral_size(problem: Problem, state: LoopState, rate: Tensor) -> Tensor:
    """Estimate the largest ``|λ|`` of the Jacobian by power iteration with differences, shape (batch,)."""
    y = state.y
    direction = torch.where(rate == 0, torch.ones_like(rate), rate)
    length = torch.ones_like(y.real[:, 0])
    width = torch.finfo(y.dtype).eps ** 0.5 * (1.0 + y.abs().amax(dim=-1, keepdim=True))
    for _ in range(POWER_ITERATIONS):
        size = direction.abs().amax(dim=-1, keepdim=True)
        direction = direction / size.clamp_min(torch.finfo(size.dtype).tiny)
        direction = (problem.field(state.t, y + width * direction) - rate) / width
        length = direction.abs().amax(dim=-1)
    return length


def _agree(flag: Tensor, like: Tensor) -> Tensor:
    """Reduce a flag per sample to the shape of a status that all samples may share."""
    return flag if flag.shape == like.shape else flag.any().reshape(1)
