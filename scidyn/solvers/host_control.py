"""Steps that all samples share, controlled by numbers of the host: what an ordinary step needs and nothing more."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn.solvers.adjoint.compiled_step import SharedStep
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState, Outcome, attempts
from scidyn.solvers.controller import SMALLEST_PREVIOUS_RATIO, Controller, Tolerance, error_ratio
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Rate, Step
from scidyn.solvers.precision import HALF

__all__ = ["HostControl", "controllable"]


def controllable(problem: Problem) -> bool:
    """True if the steps of this problem can be controlled by the host."""
    method = problem.method
    plain = isinstance(method, ExplicitRK) and method.tableau.second_error is None and method.adaptive
    shared = problem.stepping == "shared" and isinstance(problem.controller, Controller)
    free = problem.targets is None and problem.y0.dtype not in HALF
    return plain and shared and free and problem.y0.device.type == "cpu"


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
        self._before, self._tiny = (1.0, 1.0), 0.0
        self._tried = self._first = self._most = 0
        if not isinstance(problem.method, ExplicitRK):
            raise TypeError(f"host control takes explicit Runge-Kutta methods; got {problem.method.name!r}.")
        self._tableau = problem.method.tableau
        controller, order = problem.controller, problem.method.error_order
        p, i, d = controller.proportional, controller.integral, controller.derivative
        self._powers = (-(p + i + d) / order, (p + 2 * d) / order, -d / order)
        self._state: LoopState | None = None
        self._goes_on = torch.ones(2, dtype=torch.bool, device=problem.y0.device)

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
        ratio = error_ratio(bounds.tolerance, state.y, taken.y1, err).item()
        if not ratio <= 1.0 or h == remaining or self._tried + 1 >= self._most:
            self._state = None
            return self._general(state, bounds, taken)
        first, second, third = self._powers
        controller = self._problem.controller
        factor = controller.safety * max(ratio, self._tiny) ** first * self._before[0] ** second
        factor *= self._before[1] ** third
        self._t, self._h = t + h, min(h * min(max(factor, 1.0), controller.grow), self._longest)
        self._before = (max(ratio, SMALLEST_PREVIOUS_RATIO), self._before[0])
        self._tried += 1
        times = torch.tensor([[self._t], [h], [self._h]], dtype=state.t.dtype, device=state.t.device)
        # the counters and the memory of the controller are brought up to date before the general rules need them
        self._state = state._replace(t=times[0], h=times[2], y=taken.y1, carry=taken.carry)
        return Outcome(
            state=self._state,
            times=times[:1],
            size=times[1:2],
            states=state.y.unsqueeze(0),
            coef=torch.stack(taken.coef).unsqueeze(0),
            flags=self._goes_on,
        )

    def _read(self, state: LoopState, bounds: Bounds) -> None:
        """Copy to the host what the control needs."""
        numbers = torch.cat([state.t, state.h, bounds.end, bounds.slack, bounds.dt_max]).tolist()
        self._t, self._h, self._end, self._slack, self._longest = numbers
        before = torch.cat(list(state.previous)).tolist()
        self._before, self._tiny = (before[0], before[1]), torch.finfo(state.previous[0].dtype).tiny
        self._tried = self._first = int(state.accepted + state.rejected)
        self._most = int(bounds.max_steps)

    def _general(self, state: LoopState, bounds: Bounds, taken: Step) -> Outcome:
        """Judge a step that is taken already."""
        one, two = state.previous
        previous = (torch.full_like(one, self._before[0]), torch.full_like(two, self._before[1]))
        state = state._replace(accepted=state.accepted + (self._tried - self._first), previous=previous)
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
