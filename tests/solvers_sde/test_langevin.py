"""Underdamped Langevin dynamics: strong orders, exactness, stationary law, gradients, bad input."""

import math

import numpy as np
import pytest
import torch

from scidyn.errors import OptionError, ShapeError, SolverError
from scidyn.solvers import BrownianIncrements, solve_langevin
from scidyn.solvers.sde.methods.langevin import drag, drift, tilt

F64 = torch.float64


@pytest.mark.parametrize(("method", "order"), [("align", 2.0), ("quicsort", 3.0), ("baoab", 1.0)])
def test_strong_order(method, order):
    x0 = torch.linspace(-1, 1, 300, dtype=F64).unsqueeze(-1)
    path = BrownianIncrements(torch.linspace(0, 1, 513, dtype=F64), (300, 1), seed=0, levels="WHK", dtype=F64)

    def solve(bm, name):
        return solve_langevin(lambda x: torch.sin(2 * x) + x, x0, x0, [0.0, 1.0], bm=bm, method=name, adjoint=None).x[
            :, -1
        ]

    fine = solve(path, "quicsort")
    steps = (8, 16, 32) if order > 2 else (16, 32, 64)
    errors = [(solve(path.coarsen(512 // n), method) - fine).square().mean().sqrt().item() for n in steps]
    assert -np.polyfit(np.log(steps), np.log(errors), 1)[0] == pytest.approx(order, abs=0.15)


@pytest.mark.parametrize("method", ["align", "quicsort", "baoab"])
def test_stationary_law_of_a_double_well(method):
    def gradient(x):
        return 4 * x * (x * x - 1)

    start = torch.randn(2, 4000, 1, dtype=F64, generator=torch.Generator().manual_seed(0))
    path = solve_langevin(
        gradient,
        start[0],
        start[1],
        [0.0, *np.linspace(10, 30, 11)],
        friction=1.5,
        temperature=0.7,
        method=method,
        dt=0.08,
        seed=1,
        adjoint=None,
    )
    grid = np.linspace(-3, 3, 4001)
    density = np.exp(-((grid**2 - 1) ** 2))
    density /= density.sum()
    for power in (2, 4):
        exact = float((density * grid**power).sum())
        assert (path.x[:, 1:] ** power).mean().item() == pytest.approx(exact, rel=0.02)
    assert path.v[:, 1:].var().item() == pytest.approx(0.7, rel=0.02)
    assert path.x[:, 1:].mean().abs() < 0.04


def test_coefficients_agree_with_quadrature_on_both_sides_of_the_series():
    for gamma, h in ((0.3, 0.02), (1.0, 0.4999), (1.0, 0.5001), (4.0, 1.3)):
        s, w = np.polynomial.legendre.leggauss(40)
        s, w = h * (s + 1) / 2, w * h / 2
        assert drag(gamma, h) == pytest.approx(float((w * np.exp(-gamma * s)).sum()), rel=1e-12)
        assert drift(gamma, h) == pytest.approx(float((w * (1 - np.exp(-gamma * s)) / gamma).sum()), rel=1e-11)
        # weight of H = (1/h) ∫ (h/2 - s) dW, whose variance is h / 12
        kernel = (1 - np.exp(-gamma * (h - s))) / gamma
        assert tilt(gamma, h) == pytest.approx(float((w * kernel * (h / 2 - s)).sum() / h / (h / 12)), rel=1e-10)


def test_discrete_gradient_is_that_of_the_steps():
    stiffness = torch.tensor(2.0, dtype=F64, requires_grad=True)
    for method in ("align", "quicsort", "baoab"):
        found = []
        for adjoint in ("direct", "discrete"):
            x0 = torch.ones(3, 2, dtype=F64, requires_grad=True)
            path = solve_langevin(
                lambda x: stiffness * torch.sin(x),
                x0,
                None,
                [0.0, 0.5, 1.0],
                method=method,
                dt=0.02,
                seed=0,
                adjoint=adjoint,
            )
            found.append(torch.autograd.grad((path.x**2).sum() + path.v.sum(), [x0, stiffness]))
        assert all(torch.allclose(a, b, rtol=1e-10, atol=0) for a, b in zip(*found, strict=True))


def test_gradient_can_be_differentiated_again():
    found = []
    for adjoint in ("direct", "discrete"):
        stiffness, x0 = (
            torch.tensor(2.0, dtype=F64, requires_grad=True),
            torch.ones(3, 1, dtype=F64, requires_grad=True),
        )
        path = solve_langevin(
            lambda x, k=stiffness: k * torch.sin(x), x0, None, [0.0, 1.0], dt=0.1, seed=0, adjoint=adjoint
        )
        first = torch.autograd.grad((path.x**2).sum(), [x0, stiffness], create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), [x0, stiffness]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"friction": 0.0}, OptionError, "friction"),
        ({"temperature": -1.0}, OptionError, "temperature"),
        ({"dt": None}, OptionError, "dt"),
        ({"dt": 0.0}, OptionError, "dt"),
        ({"method": "euler"}, OptionError, "method"),
        ({"v0": torch.zeros(2, 3)}, ShapeError, "one shape"),
        ({"gradient": lambda x: x.sum()}, ShapeError, "gradient"),
        ({"gradient": lambda x: -(x**9), "x0": torch.full((2, 1), 9.0)}, SolverError, "sample 0"),
    ],
)
def test_bad_input_is_one_sentence(options, kind, words):
    given = {"gradient": lambda x: x, "x0": torch.zeros(2, 1), "v0": None, "dt": 0.1, "seed": 0, **options}
    gradient, x0, v0 = given.pop("gradient"), given.pop("x0"), given.pop("v0")
    with pytest.raises(kind, match=words):
        solve_langevin(gradient, x0, v0, [0.0, math.pi], **given)
