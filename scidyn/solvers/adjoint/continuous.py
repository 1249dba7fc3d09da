r"""Continuous adjoints: the gradient of the exact flow, found by solving backwards in time.

With the gradient :math:`a` with respect to the state,

.. math::
    \frac{da}{dt} = -\Big(\frac{\partial f}{\partial y}\Big)^{\!\top} a, \qquad
    \frac{dL}{dp} = \int_{t_0}^{t_1} \Big(\frac{\partial f}{\partial p}\Big)^{\!\top} a \, dt ,

and :math:`a` jumps by the gradient of the loss at each reported time. The integral is taken by quadrature
over the accepted steps, so parameters neither enlarge the state nor its error norm.

References
----------
R. T. Q. Chen, Y. Rubanova, J. Bettencourt, D. Duvenaud, Neural ordinary differential equations, NeurIPS 2018.
Y. Ma, V. Dixit, M. Innes, X. Guo, C. Rackauckas, A comparison of automatic differentiation and continuous
sensitivity analysis for derivatives of differential equation solutions, IEEE HPEC 2021.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, SolverError
from scidyn.solvers.adjoint.capture import own_shares
from scidyn.solvers.adjoint.mapped import refuse_mapped
from scidyn.solvers.adjoint.once import refuse_twice
from scidyn.solvers.adjoint.records import add
from scidyn.solvers.arguments import Problem
from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.field import Field
from scidyn.solvers.fixed_steps import integrate_fixed
from scidyn.solvers.loop import Trace, integrate
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Method
from scidyn.solvers.status import Status

__all__ = ["attach_continuous", "check_backsolve"]

ROWS = 4096

# nodes and weights of three-point Gauss quadrature on [0, 1]
GAUSS = ((0.5 - 0.15**0.5, 5 / 18), (0.5, 8 / 18), (0.5 + 0.15**0.5, 5 / 18))


def check_backsolve(method: Method) -> None:
    """Refuse methods for stiff problems: solved backwards, what decays grows and the state is lost.

    Raises
    ------
    OptionError
        If the method is not an explicit Runge–Kutta method.
    """
    if not isinstance(method, ExplicitRK):
        raise OptionError(
            f"adjoint='backsolve' needs an explicit Runge-Kutta method; got {method.name!r}: a stiff problem cannot "
            "be solved backwards, use adjoint='discrete' or 'interpolating'."
        )


def attach_continuous(problem: Problem, trace: Trace, y0: Tensor, params: Sequence[Tensor], kind: str) -> Tensor:
    """Give ``trace.y`` the gradient of the flow with respect to ``y0`` and ``params``."""
    bare = problem._replace(y0=problem.y0.detach(), times=problem.times.detach())
    path = (trace.times, trace.size, trace.states, trace.coef) if kind == "interpolating" else ()
    return _ContinuousAdjoint.apply(bare, trace.y, len(path), *path, y0, *params)


class _ContinuousAdjoint(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, problem: Problem, y: Tensor, count: int, *tensors: Tensor) -> Tensor:
        ctx.problem, ctx.count = problem, count
        ctx.save_for_backward(y, *tensors)
        return y.clone()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        kind = "interpolating" if ctx.count else "backsolve"
        refuse_mapped(kind, grad)
        y, *tensors = ctx.saved_tensors
        path = Records(*tensors[: ctx.count]) if ctx.count else None
        params = tensors[ctx.count + 1 :]
        bare, sharing = own_shares(params)
        with sharing, torch.no_grad():
            found = _backwards(ctx.problem, y, grad, path, bare)
        return (None, None, None, *[None] * ctx.count, *refuse_twice(kind, found, [grad, *tensors[ctx.count :]]))


def _backwards(
    problem: Problem, y: Tensor, grad: Tensor, path: Records | None, params: Sequence[Tensor]
) -> list[Tensor | None]:
    """Go back from each reported time to the one before it."""
    missing = torch.isnan(y).all(dim=-1)
    grad = grad.masked_fill(missing.unsqueeze(-1), 0.0)
    totals: list[Tensor | None] = [None] * len(params)
    state_grad = grad[:, -1]
    for j in range(y.shape[1] - 1, 0, -1):
        times, known = problem.times[:, j - 1 : j + 1], ~missing[:, j]
        if times.shape[0] > 1:
            known = known & (times[:, 1] > times[:, 0])
            times = torch.where(known.unsqueeze(1), times, problem.times[:, :1])
        if bool(known.any()) and bool((times[:, 1] > times[:, 0]).any()):
            # a sample that did not arrive takes the place of one that did, with a gradient of zero
            rows = torch.arange(len(known), device=y.device)
            rows = torch.where(known, rows, known.to(torch.int8).argmax())
            start = torch.where(known.unsqueeze(-1), state_grad, 0.0)
            earlier, found = _interval(problem, times, y[rows, j], start, path, params)
            state_grad = torch.where(known.unsqueeze(-1), earlier, state_grad)
            totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
        state_grad = state_grad + grad[:, j - 1]
    return [state_grad, *totals]


def _interval(
    problem: Problem, times: Tensor, y: Tensor, grad: Tensor, path: Records | None, params: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor | None]]:
    """Solve the adjoint equation over one interval; ``times`` (b, 2) increase."""
    field: _Adjoint = _WithState(problem.field) if path is None else _AlongPath(problem.field, path)
    first = grad if path is not None else torch.cat([y, grad], dim=-1)
    tolerance = problem.tolerance
    targets = None if problem.targets is None else -problem.targets.flip(1)
    if path is None:
        atol = torch.cat([tolerance.atol, tolerance.atol]) if tolerance.atol.ndim else tolerance.atol
        tolerance = tolerance._replace(atol=atol, leaves=2 * tolerance.leaves)
    back = problem._replace(field=field, y0=first, times=-times.flip(1), tolerance=tolerance, targets=targets)
    with torch.no_grad():
        rate = field(back.start, first)
    solve = integrate_fixed if problem.stepping == "fixed" else integrate
    trace = solve(back, rate, keep_states=path is None, keep_coef=path is not None)
    failed = trace.final.status != Status.SUCCESS.value
    if bool(failed.any()):
        reason = Status(int(trace.final.status[failed][0]))
        raise SolverError(
            f"the adjoint equation failed between t={times[0, 0]:.6g} and {times[0, 1]:.6g}: {reason.name}, "
            f"{reason.sentence}. Cure: use adjoint='discrete'."
        )
    end = trace.final.y[:, -grad.shape[1] :]
    if not params:
        return end, []
    return end, field.integral(problem.method, trace, params)


class _Adjoint(Field):
    """Right-hand side of the adjoint equation in the time −t, and the integral over its steps."""

    def __init__(self, inner: Field) -> None:
        super().__init__(inner.f, inner.args, inner.shape, inner.sign, inner.per_sample)

    def forwards(self, t: Tensor, y: Tensor) -> Tensor:
        """Evaluate the rate of the problem itself."""
        return super().__call__(t, y)

    def integral(self, method: Method, trace: Trace, params: Sequence[Tensor]) -> list[Tensor | None]:
        """Integrate the gradient of ``params`` over the accepted steps."""
        raise NotImplementedError

    def part(
        self, t: Tensor, y: Tensor, grad: Tensor, weight: Tensor, params: Sequence[Tensor]
    ) -> tuple[Tensor | None, ...]:
        """Give ``weight (∂f/∂p)ᵀ a`` at one point; ``weight`` is (1,) or (batch,)."""
        moved = (weight != 0).unsqueeze(-1)
        with torch.enable_grad():
            rate = self.forwards(t, y.detach())
        if not rate.requires_grad:
            return (None,) * len(params)
        scaled = torch.where(moved, weight.to(y.real.dtype).unsqueeze(-1) * grad, 0.0)
        return torch.autograd.grad(rate, params, scaled, allow_unused=True)


class _WithState(_Adjoint):
    """The state is solved backwards together with its gradient."""

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        state, grad = y.chunk(2, dim=-1)
        rate, pulled = _pull(lambda s: self.forwards(-t, s), state, grad)
        return torch.cat([-rate, pulled], dim=-1)

    def integral(self, method: Method, trace: Trace, params: Sequence[Tensor]) -> list[Tensor | None]:
        """Use the stages and weights of the steps themselves."""
        if not isinstance(method, ExplicitRK):
            raise OptionError("adjoint='backsolve' needs an explicit Runge-Kutta method.")
        totals: list[Tensor | None] = [None] * len(params)
        points: list[tuple[Tensor, Tensor]] = []

        def noted(t: Tensor, y: Tensor) -> Tensor:
            points.append((t, y))
            return self(t, y)

        for t, h, y in zip(trace.times[:-1], trace.size, trace.states, strict=True):
            points.clear()
            with torch.no_grad():
                method.replay(noted, t, h, y, dense=False)
            for (when, both), b in zip(points, method.tableau.a[-1], strict=True):
                if b != 0.0:
                    state, grad = both.chunk(2, dim=-1)
                    found = self.part(-when, state, grad, b * h, params)
                    totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
        return totals


class _AlongPath(_Adjoint):
    """The state is read from the polynomials of the forward solve."""

    def __init__(self, inner: Field, path: Records) -> None:
        super().__init__(inner)
        self.path = path
        self._last: tuple[Tensor, Tensor, Tensor] | None = None

    def state(self, t: Tensor) -> Tensor:
        """State at times of shape (1,) or (batch,)."""
        times = self.path.times
        wanted = t.expand(max(times.shape[1], len(t))).unsqueeze(1)
        wide = self.path._replace(times=times.expand(-1, len(wanted)), size=self.path.size.expand(-1, len(wanted)))
        return evaluate(wide, *locate(wide.times, wanted))[:, 0]

    def __call__(self, t: Tensor, y: Tensor) -> Tensor:
        # the iterations and difference quotients of an implicit step ask for many products at one time
        if self._last is None or self._last[0] is not t:
            with torch.enable_grad():
                # a slope in time goes through the state too
                state = self.state(-t) if t.requires_grad else self.state(-t).detach().requires_grad_()
                self._last = t, state, self.forwards(-t, state)
        _, state, rate = self._last
        if not rate.requires_grad:
            return torch.zeros_like(y)
        options: dict[str, Any] = {"retain_graph": True, "create_graph": torch.is_grad_enabled()}
        return torch.autograd.grad(rate, state, y, allow_unused=True, materialize_grads=True, **options)[0]

    def integral(self, method: Method, trace: Trace, params: Sequence[Tensor]) -> list[Tensor | None]:
        """Three-point Gauss quadrature in each step, the points of many steps together."""
        totals: list[Tensor | None] = [None] * len(params)
        if trace.coef is None:
            return totals
        batch = trace.states.shape[1]
        length = max(1, ROWS // (len(GAUSS) * batch))
        for low in range(0, len(trace.size), length):
            part = slice(low, low + length)
            found = self._points(trace.times[:-1][part], trace.size[part], trace.states[part], trace.coef[part], params)
            totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
        return totals

    def _points(
        self, t: Tensor, h: Tensor, grad: Tensor, coef: Tensor, params: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Sum over the points of some steps."""
        powers = torch.arange(1, coef.shape[1] + 1, dtype=h.dtype, device=h.device)
        when, weights, inside = [], [], []
        for theta, weight in GAUSS:
            factor = (theta**powers).to(grad.dtype).reshape(1, -1, 1, 1)
            inside.append(grad + h.to(grad.real.dtype).unsqueeze(-1) * (factor * coef).sum(dim=1))
            when.append(-(t + theta * h))
            weights.append(weight * h)
        times, scale, value = torch.cat(when), torch.cat(weights), torch.cat(inside)
        states = torch.stack([self.state(x) for x in times])
        try:
            return self._together(times, states, scale.to(grad.real.dtype).unsqueeze(-1) * value, params)
        except (RuntimeError, ValueError, NotImplementedError):
            totals: list[Tensor | None] = [None] * len(params)
            for point in zip(times, states, value, scale, strict=True):
                found = self.part(*point, params)
                totals = [add(total, new) for total, new in zip(totals, found, strict=True)]
            return totals

    def _together(
        self, t: Tensor, states: Tensor, cotangent: Tensor, params: Sequence[Tensor]
    ) -> Sequence[Tensor | None]:
        """Pull all points back in one product."""
        with torch.enable_grad():
            rate = torch.func.vmap(self.forwards)(t, states.detach())
        if not rate.requires_grad:
            return [None] * len(params)
        return torch.autograd.grad(rate, params, torch.where(cotangent != 0, cotangent, 0.0), allow_unused=True)


def _pull(f: Callable[[Tensor], Tensor], y: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Value of f and its vector–Jacobian product."""
    value: Any = torch.func.vjp(f, y)
    return value[0], value[1](grad)[0]
