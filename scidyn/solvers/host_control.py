"""Steps that all samples share, controlled by numbers of the host: what an ordinary step needs and nothing more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn.solvers.adjoint.compiled_step import SharedStep
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState, Outcome, attempts, steps_per_read
from scidyn.solvers.controller import Tolerance, Trial, error_ratio
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.precision import HALF

__all__ = ["HostControl", "controllable"]


def controllable(problem: Problem) -> bool:
    """True if the steps of this problem can be controlled by the host."""
    method = problem.method
    plain = isinstance(method, ExplicitRK) and method.tableau.second_error is None and method.adaptive
    free = problem.targets is None and problem.y0.dtype not in HALF
    device = problem.y0.device
    return plain and problem.stepping == "shared" and free and device.type == "cpu" and steps_per_read(device) == 1


class HostControl:
    """Tries one step at a time; one that is refused or the last is left to the general rules.

    Parameters
    ----------
    problem : Problem
        A problem with shared steps.
    take : callable
        ``take(rate, t, h, y, k1)`` takes a step of the host's numbers ``t`` and ``h``.
    """

    def __init__(self, problem: Problem, take: SharedStep) -> None:
        self._problem = problem
        self._take = take
        self._t = self._h = self._end = self._slack = self._longest = 0.0
        self._tried = self._first = self._most = 0
        if not isinstance(problem.method, ExplicitRK):
            raise TypeError(f"host control takes explicit Runge-Kutta methods; got {problem.method.name!r}.")
        self._tableau = problem.method.tableau
        self._state: LoopState | None = None
        self._yes = torch.ones(1, dtype=torch.bool, device=problem.y0.device)
        self._goes_on = self._yes.repeat(2)

    def __call__(self, state: LoopState, bounds: Bounds) -> Outcome:
        """Make one attempt."""
        if state is not self._state:
            self._read(state, bounds)
        field, t = self._problem.field, self._t
        remaining = self._end - t
        h = remaining if self._h >= remaining - self._slack else self._h
        taken = self._take(field, t, h, state.y, state.carry[0])
        # a step of these methods always has an estimate
        err = torch.full_like(taken.y1, torch.inf) if taken.err is None else taken.err
        ratio = error_ratio(bounds.tolerance, state.y, taken.y1, err)
        if not ratio.item() <= 1.0 or h == remaining or self._tried + 1 >= self._most:
            self._state = None
            return self._general(state, bounds, taken)
        controller, memory = self._problem.controller, state.previous
        size = torch.tensor([h], dtype=state.t.dtype, device=state.t.device)
        trial = Trial(ratio, self._yes, size, self._problem.method.error_order, None, taken.most)
        self._t, self._h = t + h, min(h * controller.factor(trial, memory).item(), self._longest)
        self._tried += 1
        now, proposal = torch.tensor([[self._t], [self._h]], dtype=state.t.dtype, device=state.t.device)
        previous = controller.remember(trial, memory)
        # the counter is brought up to date before the general rules need it
        self._state = state._replace(t=now, h=proposal, y=taken.y1, carry=taken.carry, previous=previous)
        return Outcome(
            state=self._state,
            times=now.unsqueeze(0),
            size=size.unsqueeze(0),
            states=state.y.unsqueeze(0),
            coef=torch.stack(taken.coef).unsqueeze(0),
            flags=self._goes_on,
        )

    def _read(self, state: LoopState, bounds: Bounds) -> None:
        """Copy to the host what the control needs."""
        numbers = torch.cat([state.t, state.h, bounds.end, bounds.slack, bounds.dt_max]).tolist()
        self._t, self._h, self._end, self._slack, self._longest = numbers
        self._tried = self._first = int(state.accepted + state.rejected)
        self._most = int(bounds.max_steps)

    def _general(self, state: LoopState, bounds: Bounds, taken: Step) -> Outcome:
        """Judge a step that is taken already."""
        state = state._replace(accepted=state.accepted + (self._tried - self._first))
        return attempts(1, self._problem.field, _Taken(self._tableau, taken), self._problem.controller, bounds, state)


@dataclass(frozen=True)
class _Taken(ExplicitRK):
    """A method whose next step is known."""

    taken: Step

    def step(
        self, rate: Rate, t: Tensor, h: Tensor, y: Tensor, carry: tuple[Tensor, ...], tolerance: Tolerance
    ) -> Step:
        """Give the known step."""
        return self.taken
