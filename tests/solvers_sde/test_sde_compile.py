"""Compiled steps give the same result for every method and noise, and are given up without an exception."""

import functools

import pytest
import torch

from scidyn.errors import OptionError, SolverWarning
from scidyn.solvers import BrownianIncrements, solve_sde
from scidyn.solvers.sde import compiling
from scidyn.solvers.sde.methods import SDE_METHODS

F64 = torch.float64
CASES = [(name, noise) for name, m in SDE_METHODS.items() for noise in sorted(m.about.noise)]


@pytest.fixture
def uncompiled(monkeypatch):
    """The functions that would be compiled, run as they are: what is tested is the change of time and of noise."""
    monkeypatch.setattr(torch, "compile", lambda function, **options: function)
    monkeypatch.setattr(compiling, "_cache", type(compiling._cache)())


def equation(noise):
    scale = torch.tensor([0.3, 0.2, 0.4], dtype=F64, requires_grad=True)

    def drift(t, y):
        return torch.sin(y) * (1 + t) - scale * y

    def diffusion(t, y):
        if noise == "additive":
            return ((1 + t) * scale).expand_as(y)
        if noise == "diagonal":
            return (1 + t) * scale * torch.cos(y)
        matrix = (1 + t) * torch.stack([scale * torch.cos(y), 0.1 * torch.sin(y)], -1)
        return matrix[..., :1] if noise == "scalar" else matrix

    return drift, diffusion, scale


@pytest.mark.parametrize(("name", "noise"), CASES)
def test_steps_of_length_one_in_their_own_time_are_the_steps(name, noise, uncompiled):
    drift, diffusion, scale = equation(noise)
    calculus = sorted(SDE_METHODS[name].about.calculus)[0]
    y0 = torch.linspace(0.2, 1.4, 12, dtype=F64).view(4, 3)

    def run(compile, **options):
        solution = solve_sde(
            drift, diffusion, y0, [0.0, 0.33, 1.0, 1.05], noise=noise, calculus=calculus, method=name, dt=0.06,
            seed=3, compile=compile, **options,
        )  # fmt: skip
        if not solution.y.requires_grad:
            return [solution.y]
        return [solution.y.detach(), *torch.autograd.grad(solution.y.square().sum(), scale)]

    for options in ({}, {"adjoint": None}):
        for got, wanted in zip(run(True, **options), run(False, **options), strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-11, atol=1e-12)


def test_a_path_that_is_no_plain_hash_can_be_compiled_too(uncompiled):
    drift, diffusion, _ = equation("diagonal")
    path = BrownianIncrements([0.05 * i for i in range(41)], (4, 3), seed=1, levels="WH", dtype=F64, antithetic=True)
    y0 = torch.ones(4, 3, dtype=F64)
    for bm in (path, path.coarsen(2)):
        options = {"bm": bm, "method": "sriw1", "check": False}
        plain, compiled = (solve_sde(drift, diffusion, y0, [0.0, 2.0], compile=c, **options).y for c in (False, True))
        torch.testing.assert_close(plain, compiled, rtol=1e-11, atol=1e-12)


def test_new_times_and_steps_compile_nothing(monkeypatch):
    # traced and differentiated as ever, but without the time that a C++ compiler takes
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="aot_eager"))
    monkeypatch.setattr(compiling, "STEPS", 2)
    monkeypatch.setattr(compiling, "_cache", type(compiling._cache)())
    rate = torch.tensor(0.5, requires_grad=True)
    y0 = torch.ones(64, 2)
    torch._dynamo.utils.counters.clear()
    for end, dt in ((1.0, 0.01), (2.0, 0.05), (3.0, 0.07)):
        found = []
        for compile in (True, False):
            # the functions are new objects in every call, as in a training loop
            solution = solve_sde(
                lambda t, y: rate * y, lambda t, y: 0.3 * y, y0, [0.0, end / 3, end], method="euler", dt=dt, seed=0,
                compile=compile,
            )  # fmt: skip
            found.append((solution.y.detach(), torch.autograd.grad(solution.y.mean(), rate)[0]))
        for got, wanted in zip(*found, strict=True):
            torch.testing.assert_close(got, wanted, rtol=1e-4, atol=1e-5)
    assert torch._dynamo.utils.counters["stats"]["unique_graphs"] == 2  # with a graph for gradients and without


def test_what_cannot_be_traced_warns_once_and_is_solved():
    def drift(t, y):
        return -y if y.sum().item() > -1e9 else y

    y0 = torch.ones(2, 2, dtype=F64)
    options = {"dt": 0.05, "seed": 0, "method": "euler"}
    with pytest.warns(SolverWarning, match="could not be compiled"):
        first = solve_sde(drift, lambda t, y: 0.1 * y, y0, [0.0, 1.0], compile=True, **options)
    plain = solve_sde(drift, lambda t, y: 0.1 * y, y0, [0.0, 1.0], **options)
    assert torch.equal(first.y, plain.y)


def test_auto_waits_until_compiling_pays(monkeypatch):
    made = []
    monkeypatch.setattr(torch, "compile", lambda function, **options: made.append(1) or function)
    monkeypatch.setattr(compiling, "_cache", type(compiling._cache)())

    def run():
        y0 = torch.ones(4, 3, dtype=F64)
        return solve_sde(lambda t, y: -y, lambda t, y: y, y0, [0.0, 1.0], dt=0.05, seed=0, compile="auto").y

    first = run()
    assert not made
    monkeypatch.setattr(compiling, "PAYS_AFTER", 0.0)
    torch.testing.assert_close(run(), first, rtol=1e-11, atol=1e-12)
    assert made == [1]


def test_an_unknown_wish_is_one_sentence():
    with pytest.raises(OptionError, match="compile"):
        solve_sde(lambda t, y: y, lambda t, y: y, torch.ones(1, 1), [0.0, 1.0], dt=0.1, seed=0, compile="always")
