"""Every method with every adjoint that serves it, against autograd through its steps."""

import pytest
import torch
from pendulums import CASES, EXPLICIT, F64, TIMES, direct, field, gradient, leaves, marked, options

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.methods import METHODS

KINDS = {
    "discrete": {"adjoint": "discrete"},
    "timeparallel": {"adjoint": "timeparallel"},
    "forward": {"adjoint": "forward"},
    "checkpoints": {"checkpoints": 3},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(("method", "stepping"), marked(CASES))
def test_the_gradient_is_that_of_the_computed_solution(method, stepping, kind):
    for got, want in zip(gradient(method, stepping, **KINDS[kind]), direct(method, stepping), strict=True):
        torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


@pytest.mark.parametrize(("method", "stepping"), marked(case for case in CASES if case[0] in EXPLICIT))
def test_reversible_gradient_is_that_of_its_own_solution(method, stepping):
    """The oracle unrolls the pair of states on the grid of steps that the solve chose."""
    got = gradient(method, stepping, adjoint="reversible")[1:3]
    y0, p = leaves()
    chosen = options(method, stepping) | {"adjoint": "reversible"}
    base, grid = METHODS[method], grids(method, chosen)
    rate = solve_field(method, p)
    weight = torch.linspace(-1, 1, 3 * len(TIMES) * 2, dtype=F64).reshape(3, len(TIMES), 2)
    total = 0.0
    for row in range(3):
        y = z = y0[row : row + 1]
        times, sizes = grid(row)
        reached = {0: y}
        for t, h in zip(times, sizes, strict=True):
            taken = base.replay(rate, t, h, z)
            gap, before = 0.001 * (z - y), y
            y = y + gap + (taken.y1 - z)
            z = z - (base.replay(rate, t + h, -h, y, dense=False).y1 - y)
            for j, wanted in enumerate(TIMES):
                if t < wanted <= t + h * (1 + 1e-12):
                    theta = ((wanted - t) / h).clamp_max(1.0)
                    inside = theta * gap + h * sum(c * theta ** (k + 1) for k, c in enumerate(taken.coef))
                    reached[j] = y if theta == 1.0 else before + inside
        states = torch.stack([reached[j][0] for j in range(len(TIMES))])
        total = total + (weight[row] * states + states**2).sum()
    for one, other in zip(got, torch.autograd.grad(total, [y0, p]), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-10, atol=1e-10)


def solve_field(method, p):
    f = field(method, p)
    return lambda t, y: f(t, y)


def grids(method, chosen):
    """Times and sizes of the accepted steps of each sample, from the points where f was evaluated."""
    from scidyn.solvers.adjoint.reversible import reversible
    from scidyn.solvers.arguments import prepare
    from scidyn.solvers.fixed_steps import integrate_fixed
    from scidyn.solvers.loop import integrate

    y0, p = leaves()
    setup = {k: v for k, v in chosen.items() if k != "adjoint"} | {"method": reversible(chosen["method"])}
    problem = prepare(field(method, p), y0, TIMES, args=None, **setup)
    k1 = problem.field.probe(problem.start, problem.y0.detach()).detach()
    solver = integrate_fixed if problem.stepping == "fixed" else integrate
    trace = solver(problem, k1, keep_states=False, keep_coef=False)

    def of(row):
        place = min(row, trace.size.shape[1] - 1)
        moved = trace.size[:, place] > 0
        return trace.times[:-1, place : place + 1][moved], trace.size[:, place : place + 1][moved]

    return of


def test_a_replay_takes_the_formula_of_the_step():
    """Some samples become stiff on the way; the steps near the turn are stable by either formula."""
    rate = torch.tensor([0.5, 300.0, 60.0], dtype=F64, requires_grad=True)
    shape = torch.tensor(1.5, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [0.5], [2.0]], dtype=F64, requires_grad=True)

    def f(t, y, p):
        return -p[0][:, None] * (y - torch.cos(p[1] * t.reshape(-1, 1))) - 0.1 * y**3

    setup = {"method": "auto", "stepping": "per_sample", "rtol": 1e-3, "atol": 1e-4}
    used = trace_of(f, y0, [0.0, 0.3, 1.0], args=(rate, shape), **setup)
    assert used[0].any()
    assert not used[0].all()
    found = {}
    for name, chosen in {"direct": {"adjoint": "direct"}, **KINDS}.items():
        y = solve_ode(f, y0, [0.0, 0.3, 1.0], args=(rate, shape), **setup, **chosen).y
        found[name] = [y, *torch.autograd.grad((y**2).sum(), [rate, shape, y0])]
    for kind in KINDS:
        for got, want in zip(found[kind], found["direct"], strict=True):
            torch.testing.assert_close(got, want, rtol=1e-10, atol=1e-10)


def trace_of(f, y0, t, **setup):
    """Formulas of the steps, each row those of one sample while it moved; shape (batch, steps)."""
    from scidyn.solvers.arguments import prepare
    from scidyn.solvers.loop import integrate

    with torch.no_grad():
        problem = prepare(f, y0, t, **setup)
        trace = integrate(problem, problem.field.probe(problem.start, problem.y0), keep_states=False, keep_coef=False)
    return (trace.choice & (trace.size > 0)).T[trace.choice.any(dim=0)]


@pytest.mark.parametrize("kind", ["timeparallel", "forward"])
def test_samples_that_mix_are_refused(kind):
    mix = torch.tensor([[-1.0, 0.4], [0.1, -1.0]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64, requires_grad=True)
    with pytest.raises(OptionError, match="depend"):
        solve_ode(lambda t, y: torch.sin(mix @ y), y0, TIMES, adjoint=kind).y.sum().backward()


@pytest.mark.parametrize("kind", ["timeparallel", "forward"])
def test_what_cannot_be_evaluated_at_once_is_refused(kind):
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.ones(2, 1, dtype=F64)
    with pytest.raises(OptionError, match="tensor operations"):
        solve_ode(lambda t, y: -rate * y * (1 + t.item()), y0, TIMES, adjoint=kind).y.sum().backward()
    with pytest.raises(OptionError, match="real states"):
        solve_ode(lambda t, y: -rate * y, y0.to(torch.complex128), TIMES, adjoint=kind)


def test_forward_refuses_a_network():
    weight = torch.zeros(40, 40, dtype=F64, requires_grad=True)
    with pytest.raises(OptionError, match="at most 1000; there are 1600"):
        solve_ode(lambda t, y: y @ weight, torch.ones(1, 40, dtype=F64), TIMES, adjoint="forward")
