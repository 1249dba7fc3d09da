"""The compiled step gives the same result, is compiled once, and is given up without an exception."""

import pytest
import torch

from scidyn.errors import SolverWarning
from scidyn.solvers import compiling, solve_ode

F64 = torch.float64


@pytest.fixture(autouse=True)
def no_generated_program(monkeypatch):
    """What is compiled here is the step."""
    monkeypatch.setattr(compiling, "generated_solver", lambda problem, compile: None)


def test_compiled_equals_plain_and_new_times_tolerances_and_bounds_compile_nothing():
    y0 = torch.tensor([[0.3], [1.2]], dtype=F64)
    rate = torch.tensor(0.8, dtype=F64, requires_grad=True)
    torch._dynamo.utils.counters.clear()

    def run(compile, end, **options):
        # the function is a new object in every call, as in a training loop
        solution = solve_ode(lambda t, y: -rate * torch.sin(y), y0, [0.0, end], compile=compile, **options)
        return solution.y.detach(), torch.autograd.grad(solution.y[:, -1].sum(), rate)[0]

    cases = [
        (1.0, {}),
        (7.0, {"rtol": 1e-9, "atol": 1e-10}),
        (3.0, {"dt_max": 0.2, "dt0": 0.1, "dt_min": 1e-9, "max_steps": 999}),
    ]
    for end, options in cases:
        for got, wanted in zip(run(True, end, **options), run(False, end, **options), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-12, atol=1e-13)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 1


def test_a_field_that_cannot_be_traced_warns_and_is_solved():
    def f(t, y):
        return -y if y.sum().item() > -1e9 else y

    y0 = torch.ones(1, 1, dtype=F64)
    with pytest.warns(SolverWarning, match="could not be compiled"):
        first = solve_ode(f, y0, [0.0, 1.0], compile=True)
    again = solve_ode(f, y0, [0.0, 1.0], compile=True)  # warnings are errors: the second solve gives none
    plain = solve_ode(f, y0, [0.0, 1.0])
    torch.testing.assert_close(first.y, plain.y, rtol=0, atol=0)
    torch.testing.assert_close(again.y, plain.y, rtol=0, atol=0)


def test_a_missing_compiler_warns(monkeypatch):
    def broken(*args, **kwargs):
        def call(*inputs):
            raise RuntimeError("no C++ compiler was found")

        return call

    monkeypatch.setattr(torch, "compile", broken)
    with pytest.warns(SolverWarning, match=r"no C\+\+ compiler"):
        solution = solve_ode(lambda t, y: -2.0 * y, torch.ones(1, 1, dtype=F64), [0.0, 1.0], compile=True)
    assert solution.success


def test_an_error_of_the_field_is_not_swallowed():
    def f(t, y):
        if t > 0.1:
            raise KeyError("not in the table")
        return -y

    with pytest.warns(SolverWarning, match="could not be compiled"), pytest.raises(KeyError, match="not in the table"):
        solve_ode(f, torch.ones(1, 1, dtype=F64), [0.0, 1.0], compile=True)


def test_auto_compiles_once_plain_steps_have_cost_as_much(monkeypatch):
    made = []
    real = compiling._compiled

    def noted(problem):
        made.append(problem.method.name)
        return lambda f, args, bounds, state: compiling.attempts(
            1, problem.field, problem.method, problem.controller, bounds, state
        )

    assert callable(real)
    monkeypatch.setattr(compiling, "_compiled", noted)

    def f(t, y):
        return -3.0 * y

    y0 = torch.ones(1, 1, dtype=F64)
    solve_ode(f, y0, [0.0, 1.0], compile="auto")
    assert not made
    monkeypatch.setattr(compiling, "PAYS_AFTER", 0.0)
    solve_ode(f, y0, [0.0, 1.0], compile="auto")
    solve_ode(f, y0, [0.0, 2.0], compile="auto")
    assert made == ["tsit5"]
