"""Reversible stepping against autograd through the same steps, closed forms, and its own inverse."""

import math

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.adjoint import reversible as module
from scidyn.solvers.arguments import prepare
from scidyn.solvers.loop import integrate
from scidyn.solvers.methods import METHODS

F64 = torch.float64
WANTED = torch.tensor([0.0, 0.7, 1.5, 2.0], dtype=F64)


def increment(method, f, t, h, z):
    """One step of the plain method, written from its tableau."""
    tableau, stages = METHODS[method].tableau, []
    for node, row in zip(tableau.c, tableau.a, strict=True):
        stage = z + h.unsqueeze(-1) * sum((w * k for w, k in zip(row, stages, strict=True)), torch.zeros_like(z))
        stages.append(f(t + node * h, stage))
    weights = tableau.a[-1]
    total = h.unsqueeze(-1) * sum(w * k for w, k in zip(weights, stages, strict=False))
    coef = [sum(w * k for w, k in zip(column, stages, strict=True)) for column in zip(*tableau.dense, strict=True)]
    return total, coef


def by_hand(method, f, y0, times, size, wanted):
    """Reversible steps under autograd; solution at ``wanted`` for one grid per column."""
    y = z = y0
    out = {0.0: y0}
    for t, h in zip(times[:-1], size, strict=True):
        forward, coef = increment(method, f, t, h, z)
        gap = 0.001 * (z - y)
        start, y = y, 0.999 * y + 0.001 * z + forward
        for w in wanted.tolist():
            if t[0] < w <= t[0] + h[0] + 1e-12:
                theta = ((w - t) / h).unsqueeze(-1)
                inner = sum(theta ** (p + 1) * c for p, c in enumerate(coef))
                out[w] = y if abs(w - (t[0] + h[0])) < 1e-12 else start + theta * gap + h.unsqueeze(-1) * inner
        z = z - increment(method, f, t + h, -h, y)[0]
    return torch.stack([out[w] for w in wanted.tolist()], dim=1)


@pytest.mark.parametrize(("method", "stepping", "dt0"), [("tsit5", "shared", None), ("rk4", "fixed", 0.25)])
def test_gradient_is_that_of_the_same_steps(method, stepping, dt0):
    generator = torch.Generator().manual_seed(1)
    weight = torch.randn(2, 2, dtype=F64, generator=generator).requires_grad_()
    y0 = torch.randn(3, 2, dtype=F64, generator=generator).requires_grad_()

    def f(t, y):
        return torch.tanh(y @ weight) + torch.sin(t)

    options = {"method": method, "stepping": stepping, "dt0": dt0}
    y = solve_ode(f, y0, WANTED, adjoint="reversible", **options).y
    if stepping == "shared":
        problem = prepare(f, y0, WANTED, args=None, rtol=None, atol=None, **options)
        problem = problem._replace(method=module.reversible(problem.method))
        with torch.no_grad():
            trace = integrate(problem, problem.field(WANTED[:1], y0), keep_states=False, keep_coef=False)
        times, size = trace.times, trace.size
    else:
        nodes = [a + (b - a) * i / n for a, b, n in ((0.0, 0.7, 3), (0.7, 1.5, 4), (1.5, 2.0, 2)) for i in range(n)]
        times = torch.tensor([*nodes, 2.0], dtype=F64).unsqueeze(1)
        size = times.diff(dim=0)
    expected = by_hand(method, f, y0, times, size, WANTED)
    torch.testing.assert_close(y, expected, rtol=1e-11, atol=1e-11)
    seed = torch.linspace(-1, 1, y.numel(), dtype=F64).reshape(y.shape)
    for got, want in zip(
        torch.autograd.grad(y, [y0, weight], seed),
        torch.autograd.grad(expected, [y0, weight], seed),
        strict=True,
    ):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def test_each_sample_with_its_own_steps_and_times():
    rate = torch.tensor([0.5, 1.0, 3.0], dtype=F64, requires_grad=True)
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, math.nan], [0.0, 2.0, 3.0]], dtype=F64)
    y0 = torch.ones(3, 1, dtype=F64)
    y = solve_ode(lambda t, y: -rate[:, None] * y, y0, t, stepping="per_sample", adjoint="reversible", rtol=1e-9).y
    exact = torch.exp(-rate[:, None] * t.nan_to_num()).unsqueeze(-1)
    known = ~torch.isnan(t)
    # errors that decay would damp add up in a reversible method: steps * tolerance bounds them
    torch.testing.assert_close(y[known], exact[known], rtol=0, atol=3e-7)
    (got,) = torch.autograd.grad(y[known].sum(), rate)
    (want,) = torch.autograd.grad(exact[known].sum(), rate)
    torch.testing.assert_close(got, want, rtol=0, atol=3e-6)


@pytest.mark.parametrize(("method", "order"), [("rk4", 4), ("midpoint", 2)])
def test_order_is_kept(method, order):
    y0 = torch.tensor([[1.0, 0.0]], dtype=F64)
    turn = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
    exact = torch.tensor([math.cos(2.0), -math.sin(2.0)], dtype=F64)
    errors = []
    for dt in (0.1, 0.05, 0.025):
        end = solve_ode(
            lambda t, y: y @ turn.T @ (-torch.eye(2, dtype=F64)),
            y0,
            [0.0, 2.0],
            method=method,
            stepping="fixed",
            dt0=dt,
            adjoint="reversible",
        ).y[0, -1]
        errors.append((end - exact).norm().item())
    assert abs(math.log2(errors[1] / errors[2]) - order) < 0.15


@pytest.mark.parametrize(("steps", "spacing"), [(2000, 2000), (200, 60)])
def test_start_is_reconstructed(steps, spacing, monkeypatch):
    monkeypatch.setattr(module, "SPACING", spacing)
    seen = {}
    undo = module._undo

    def watched(problem, steps, n, *rest):
        result = undo(problem, steps, n, *rest)
        seen[n] = result[0]
        return result

    monkeypatch.setattr(module, "_undo", watched)
    y0 = torch.tensor([[1.0, 0.5]], dtype=F64, requires_grad=True)
    y = solve_ode(
        lambda t, y: torch.stack([y[:, 1], -torch.sin(y[:, 0])], -1),
        y0,
        [0.0, 0.01 * steps],
        method="midpoint",
        stepping="fixed",
        dt0=0.01,
        adjoint="reversible",
    ).y
    y[:, -1].sum().backward()
    assert len(seen) == steps
    torch.testing.assert_close(seen[0].y, y0.detach(), rtol=0, atol=1e-10)
    torch.testing.assert_close(seen[0].z, y0.detach(), rtol=0, atol=1e-10)


def test_what_is_saved_does_not_grow_with_the_steps():
    saved = {}
    for dt in (0.1, 0.001):
        numbers = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x: (numbers.append(x.numel()), x)[1], lambda x: x):  # noqa: B023
            y0 = torch.ones(4, 50, dtype=F64, requires_grad=True)
            solve_ode(
                lambda t, y: -y, y0, [0.0, 1.0], method="midpoint", stepping="fixed", dt0=dt, adjoint="reversible"
            )
        steps = round(1 / dt)
        saved[steps] = sum(numbers) - 2 * 4 * steps  # without the times and sizes of the steps
    assert saved[1000] == saved[10]


def test_implicit_methods_are_refused():
    with pytest.raises(OptionError, match="explicit Runge-Kutta"):
        solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], method="kvaerno5", adjoint="reversible")
