"""Gradients from graphs kept while stepping, against steps repeated under autograd and closed forms."""

import math

import pytest
import torch

from scidyn.solvers import request as solving
from scidyn.solvers import solve_ode
from scidyn.solvers.adjoint.direct import replay

F64 = torch.float64
TIMES = torch.linspace(0, 2, 6, dtype=F64)
MODES = [
    ("tsit5", "shared", None),
    ("dopri5", "shared", None),
    ("dopri8", "shared", None),
    ("dopri5", "per_sample", None),
    ("rk4", "fixed", 0.1),
]


@pytest.fixture(autouse=True)
def _wide(monkeypatch):
    # these states are small enough for another way
    monkeypatch.setattr(solving, "small", lambda problem: False)


class Problem:
    """A stiff-ish oscillator whose steps are sometimes refused, with a closed-over computed matrix and an argument."""

    def __init__(self):
        generator = torch.Generator().manual_seed(0)
        self.leaf = (0.3 * torch.randn(2, 2, dtype=F64, generator=generator)).requires_grad_()
        self.argument = torch.tensor(3.0, dtype=F64, requires_grad=True)
        self.y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0], [-1.0, 2.0]], dtype=F64, requires_grad=True)
        self.t = TIMES.clone().requires_grad_()
        self.inputs = [self.y0, self.argument, self.leaf, self.t]
        self.calls = 0

    def solve(self, **options):
        computed = 2 * self.leaf

        def f(t, y, a):
            self.calls += 1
            x, v = y.unbind(-1)
            return torch.stack([v, a * (1 - x * x) * v - x + torch.sin(3 * t)], -1) + 0.1 * y @ computed

        return solve_ode(f, self.y0, self.t, args=self.argument, rtol=1e-6, atol=1e-8, **options)

    def gradient(self, y, **options):
        weight = torch.linspace(-1, 1, y.numel(), dtype=F64).reshape(y.shape)
        return torch.autograd.grad((weight * y + y**2).sum(), self.inputs, **options)


def repeated(problem, trace, y0, inputs, checkpoints=None, sweep=None):
    """The accepted steps once more under plain autograd: the reference."""
    wanted = problem.times.detach()
    return replay(problem.field, problem.method, y0, trace.times, trace.size, wanted, problem.stepping == "fixed")


@pytest.mark.parametrize(
    ("method", "stepping", "dt0", "adjoint"),
    [(*mode, "auto") for mode in MODES] + [("tsit5", "shared", None, "direct")],
)
def test_gradient_is_that_of_the_steps_and_nothing_is_evaluated_twice(method, stepping, dt0, adjoint, monkeypatch):
    options = {"method": method, "stepping": stepping, "dt0": dt0}
    problem = Problem()
    solution = problem.solve(adjoint=adjoint, **options)
    before = problem.calls
    got = problem.gradient(solution.y)
    # the first rate, and the gradient of the reported times
    assert problem.calls - before <= 1
    assert solution.stats.graph_bytes > 0
    monkeypatch.setattr(solving, "attach", repeated)
    expected = problem.gradient(problem.solve(adjoint="discrete", **options).y)
    for have, want in zip(got, expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)


def test_some_steps_are_refused_in_these_tests():
    assert int(Problem().solve().stats.n_rejected.max()) > 0


@pytest.mark.parametrize(("method", "stepping", "dt0"), MODES)
def test_states_do_not_depend_on_whether_a_gradient_is_wanted(method, stepping, dt0):
    options = {"method": method, "stepping": stepping, "dt0": dt0}
    with torch.no_grad():
        plain = Problem().solve(**options).y
    for adjoint in ("auto", "discrete", "direct"):
        assert torch.equal(Problem().solve(adjoint=adjoint, **options).y, plain)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_graphs_beyond_the_limit_are_dropped(stepping, monkeypatch):
    problem = Problem()
    expected = problem.gradient(problem.solve(stepping=stepping, adjoint="discrete").y)
    whole = problem.solve(stepping=stepping)
    monkeypatch.setattr(solving, "GRAPH_BYTES", whole.stats.graph_bytes // 2)
    solution = problem.solve(stepping=stepping)
    assert solution.stats.graph_bytes == 0
    for have, want in zip(problem.gradient(solution.y), expected, strict=True):
        torch.testing.assert_close(have, want, rtol=1e-10, atol=1e-10)
    assert problem.solve(adjoint="direct").stats.graph_bytes > 0
    assert problem.solve(stepping=stepping, adjoint="discrete").stats.graph_bytes == 0


def test_bytes_are_those_of_the_saved_tensors():
    weight = (0.1 * torch.eye(16, dtype=F64)).requires_grad_()
    y0 = torch.randn(32, 16, dtype=F64, generator=torch.Generator().manual_seed(0))
    stats = solve_ode(lambda t, y: torch.tanh(y @ weight), y0, [0.0, 1.0], method="dopri5").stats
    # each of six rates keeps its state and its tanh, and the step its start and first rate
    each = 8 * 32 * 16
    steps = int(stats.n_accepted[0])
    assert steps * 12 * each <= stats.graph_bytes <= steps * 16 * each


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_first_and_second_derivatives(stepping):
    rate = torch.tensor([0.8, 1.3], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.7], [1.2]], dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 0.6, 1.0], dtype=F64, requires_grad=True)

    def end(k, start, times):
        options = {"rtol": 1e-6, "atol": 1e-8, "dt0": 0.1, "stepping": stepping}

        def f(s, y):
            return -k[0] * torch.sin(y) + k[1] * s.reshape(-1, 1)

        return solve_ode(f, start, times, **options).y[:, 1:]

    assert torch.autograd.gradcheck(end, (rate, y0, t), atol=1e-6, fast_mode=True)
    assert torch.autograd.gradgradcheck(end, (rate, y0, t), atol=1e-5, fast_mode=True)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_a_kept_graph_can_be_used_again(stepping):
    problem = Problem()
    y = problem.solve(stepping=stepping).y
    first = problem.gradient(y, retain_graph=True)
    for have, want in zip(problem.gradient(y), first, strict=True):
        assert torch.equal(have, want)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_what_a_failed_solve_reached_has_its_gradient(stepping):
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[0.5], [0.4]], dtype=F64)
    options = {"rtol": 1e-8, "atol": 1e-10, "stepping": stepping, "on_failure": "return", "max_steps": 60}
    y = solve_ode(lambda t, y: rate * y * y, y0, [0.0, 1.0, 2.2], **options).y
    assert bool(torch.isnan(y[0, 2]).all())
    (y[:, 1].sum()).backward()
    # y = y0 / (1 - k y0 t)
    exact = sum(s * s / (1 - s) ** 2 for s in (0.5, 0.4))
    assert rate.grad.item() == pytest.approx(exact, rel=1e-5)


def test_an_infinite_slope_in_a_refused_step_spoils_nothing():
    shared = torch.tensor(1.0, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[4.0], [1.0]], dtype=F64)
    solution = solve_ode(
        lambda t, y: -2 * shared * torch.sqrt(y), y0, [0.0, 0.5, 1.5], stepping="per_sample", on_failure="return"
    )
    assert [s.success for s in solution.status] == [True, False]
    solution.y[0, -1].sum().backward()
    # y = (2 - t)^2 exactly, and dy/dk = -2 t (2 - t)
    assert shared.grad.item() == pytest.approx(-2 * 1.5 * 0.5, rel=1e-6)


def test_complex_states_backward_in_time_and_a_tensor_computed_from_another():
    rate = torch.tensor(0.3 + 1.1j, dtype=torch.complex128, requires_grad=True)
    y0 = torch.tensor([[1.0 + 0.5j], [0.2 - 1j]], dtype=torch.complex128, requires_grad=True)
    half = rate / 2
    y = solve_ode(lambda t, y, k: (k[0] + k[1]) * y, y0, [1.0, 0.0], args=(half, rate - half), rtol=1e-11, atol=1e-12).y
    exact = y0 * torch.exp(-rate)
    got, want = (torch.autograd.grad((x.abs() ** 2 + x.real).sum(), [rate, y0]) for x in (y[:, -1], exact))
    for have, true in zip(got, want, strict=True):
        torch.testing.assert_close(have, true, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("controller", ["i", "pi", "pid"])
@pytest.mark.parametrize("norm", ["max", "rms_all"])
def test_the_host_controls_steps_as_the_general_rules_do(controller, norm, monkeypatch):
    options = {"controller": controller, "norm": norm, "adjoint": None}
    quick = Problem().solve(**options)
    monkeypatch.setattr(solving, "controllable", lambda problem: False)
    general = Problem().solve(**options)
    assert int(quick.stats.n_rejected[0]) == int(general.stats.n_rejected[0]) > 0
    assert int(quick.stats.n_accepted[0]) == int(general.stats.n_accepted[0])
    torch.testing.assert_close(quick.y, general.y, rtol=0, atol=1e-9)


def test_a_limited_number_of_steps_ends_the_same_way():
    with pytest.raises(Exception, match="largest number of steps"):
        Problem().solve(max_steps=20)
    stopped = Problem().solve(max_steps=20, on_failure="return")
    assert int(stopped.stats.n_steps[0]) == 20
    assert not math.isfinite(stopped.y[0, -1, 0].item())


@pytest.mark.slow
def test_a_compiled_step_gives_the_same_gradient():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(16, 32), torch.nn.Tanh(), torch.nn.Linear(32, 16)).to(F64)
    weights, y0 = list(network.parameters()), torch.randn(64, 16, dtype=F64)
    found = {}
    for compile in (False, True):
        y = solve_ode(lambda t, y: network(y), y0, torch.linspace(0, 2, 5, dtype=F64), compile=compile).y
        found[compile] = torch.autograd.grad((y**2).sum(), weights)
    for have, want in zip(found[True], found[False], strict=True):
        torch.testing.assert_close(have, want, rtol=1e-9, atol=1e-9)
