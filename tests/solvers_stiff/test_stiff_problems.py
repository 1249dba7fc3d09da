"""Stiff problems against SciPy's Radau at 1e-10."""

import numpy as np
import pytest
import torch
from problems import PROBLEMS, brusselator, brusselator_start, reference
from scipy.integrate import solve_ivp

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.linear import LinearAlgebra
from scidyn.solvers.methods.esdirk import ESDIRK
from scidyn.solvers.methods.rosenbrock import Rodas, Rosenbrock23
from scidyn.solvers.stiff_tableaus import KVAERNO3, KVAERNO5, RODAS5P

F64 = torch.float64


CASES = [(m, p) for m in ("kvaerno5", "rodas5p") for p in PROBLEMS if (m, p) != ("kvaerno5", "van_der_pol")]


@pytest.mark.parametrize(
    ("method", "problem"), [*CASES, pytest.param("kvaerno5", "van_der_pol", marks=pytest.mark.slow)]
)
def test_small_problems(method, problem):
    f, y0, times, atol = PROBLEMS[problem]
    expected = reference(problem)
    got = solve_ode(
        f,
        torch.tensor([y0], dtype=F64),
        times,
        method=method,
        rtol=1e-7,
        atol=1e4 * atol,
        adjoint=None,
        max_steps=20000,
    )
    # between steps the second component of Van der Pol follows the first to the order of the polynomial
    floor = 0.02 if problem == "van_der_pol" else 1e-6 * np.abs(expected).max(axis=0)
    scale = np.abs(expected) + floor
    assert np.abs((got.y[0].numpy() - expected) / scale).max() < 4e-5
    assert got.stats.n_steps.item() < 2000


@pytest.mark.parametrize("method", ["kvaerno3", "rosenbrock23"])
def test_low_orders_at_loose_tolerances(method):
    f, y0, times, _ = PROBLEMS["robertson"]
    got = solve_ode(f, torch.tensor([y0], dtype=F64), times, method=method, rtol=1e-4, atol=1e-8, adjoint=None)
    np.testing.assert_allclose(got.y[0].numpy(), reference("robertson"), rtol=2e-3, atol=1e-7)
    assert got.stats.n_steps.item() < 400


@pytest.mark.parametrize("method", ["kvaerno3", "kvaerno5", "rosenbrock23", "rodas5p"])
@pytest.mark.parametrize("stepping", ["per_sample", "shared"])
def test_single_precision(method, stepping):
    f, y0, times, _ = PROBLEMS["robertson"]
    start = torch.tensor([y0, [0.9, 0.0, 0.1]])
    got = solve_ode(f, start, times[:3], method=method, rtol=1e-3, atol=1e-7, stepping=stepping, adjoint=None)
    assert got.y.dtype == torch.float32
    np.testing.assert_allclose(got.y[0].numpy(), reference("robertson")[:3], rtol=2e-2, atol=1e-5)


@pytest.mark.parametrize("method", ["kvaerno5", "rodas5p"])
def test_result_does_not_depend_on_batch_mates(method):
    f, y0, times, _ = PROBLEMS["robertson"]
    start = torch.tensor([y0, [0.5, 1e-5, 0.5], [0.0, 0.0, 1.0], [0.2, 0.2, 0.6]], dtype=F64)
    options = {"method": method, "stepping": "per_sample", "adjoint": None, "rtol": 1e-5, "atol": 1e-9}
    together = solve_ode(f, start, times, **options)
    for i in range(len(start)):
        alone = solve_ode(f, start[i : i + 1], times, **options)
        assert torch.equal(alone.y[0], together.y[i])
        assert alone.stats.n_steps[0] == together.stats.n_steps[i]
    backwards = solve_ode(f, start.flip(0), times, **options)
    assert torch.equal(backwards.y.flip(0), together.y)


def methods_for_bands():
    for algebra in (LinearAlgebra("banded", (2, 2)), LinearAlgebra("krylov"), LinearAlgebra()):
        yield ESDIRK(KVAERNO5, algebra)
        yield Rodas(tableau=RODAS5P, algebra=algebra)


@pytest.mark.parametrize("method", list(methods_for_bands()), ids=lambda m: f"{m.name}-{m.algebra.linear_solver}")
def test_brusselator_on_every_linear_solver(method):
    cells = 40 if method.algebra.linear_solver != "banded" else 200
    y0 = brusselator_start(cells)
    times = [0.0, 1.0, 3.0]

    def rate(t, y):
        return brusselator(t, torch.as_tensor(y)).numpy()

    expected = solve_ivp(rate, (0, 3), y0, "LSODA", times, rtol=1e-10, atol=1e-12, lband=2, uband=2).y.T
    got = solve_ode(
        brusselator,
        torch.tensor(y0)[None],
        times,
        method=method,
        rtol=1e-5,
        atol=1e-7,
        stepping="per_sample",
        adjoint=None,
    )
    np.testing.assert_allclose(got.y[0].numpy(), expected, rtol=2e-4, atol=1e-5)
    assert got.stats.n_steps.item() < 150


def test_time_dependent_field_and_decreasing_times():
    def f(t, y):
        return -1e4 * (y - torch.cos(t)[:, None])

    times = torch.linspace(0, 3, 4, dtype=F64)
    for method in ("kvaerno5", "rodas5p", "rosenbrock23", "kvaerno3"):
        got = solve_ode(f, torch.ones(2, 1, dtype=F64), times, method=method, stepping="per_sample", adjoint=None)
        exact = (1e8 * torch.cos(times) + 1e4 * torch.sin(times)) / (1e8 + 1)
        torch.testing.assert_close(got.y[:, 1:, 0], exact[1:].expand(2, -1), rtol=1e-4, atol=1e-5)
        back = solve_ode(
            lambda t, y: 1e4 * (y - torch.cos(t)[:, None]),
            torch.ones(1, 1, dtype=F64),
            times.flip(0),
            method=method,
            stepping="per_sample",
            adjoint=None,
        )
        exact = (1e8 * torch.cos(times) - 1e4 * torch.sin(times)) / (1e8 + 1)
        torch.testing.assert_close(back.y[0, 1:, 0], exact.flip(0)[1:], rtol=1e-4, atol=1e-5)


def test_jacobian_given_by_the_user():
    calls = []

    def jacobian(t, y):
        calls.append(1)
        b, c = y[:, 1], y[:, 2]
        zero, one = torch.zeros_like(b), torch.ones_like(b)
        rows = [
            [-0.04 * one, 1e4 * c, 1e4 * b],
            [0.04 * one, -1e4 * c - 6e7 * b, -1e4 * b],
            [zero, 6e7 * b, zero],
        ]
        return torch.stack([torch.stack(row, dim=-1) for row in rows], dim=-2)

    f, y0, times, _ = PROBLEMS["robertson"]
    method = ESDIRK(KVAERNO5, LinearAlgebra(jacobian=jacobian))
    got = solve_ode(f, torch.tensor([y0], dtype=F64), times, method=method, rtol=1e-6, atol=1e-10, adjoint=None)
    np.testing.assert_allclose(got.y[0].numpy(), reference("robertson"), rtol=1e-4, atol=1e-9)
    # a Jacobian serves several steps
    assert 1 <= len(calls) < got.stats.n_steps.item()


def test_what_cannot_be_solved_is_refused_by_name():
    wide = torch.zeros(1, 600, dtype=F64)
    for method in (ESDIRK(KVAERNO3), Rosenbrock23()):
        with pytest.raises(OptionError, match="600 x 600 matrix"):
            solve_ode(lambda t, y: -y, wide, [0.0, 1.0], method=method, adjoint=None)
        with pytest.raises(OptionError, match="real equations"):
            solve_ode(lambda t, y: 1j * y, wide[:, :2] + 0j, [0.0, 1.0], method=method, adjoint=None)
    with pytest.raises(OptionError, match="bandwidth"):
        LinearAlgebra("banded")
    with pytest.raises(OptionError, match="bandwidth"):
        LinearAlgebra("dense", (1, 1))
    with pytest.raises(OptionError, match="linear_solver"):
        LinearAlgebra("sparse")
