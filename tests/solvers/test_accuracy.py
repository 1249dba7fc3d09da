"""Solutions against closed forms and against SciPy's DOP853 at 1e-12."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode
from scidyn.systems import Lorenz63, LotkaVolterra, VanDerPol

F64 = torch.float64


def reference(f, y0, times):
    """Solve one trajectory with SciPy at 1e-13."""
    return solve_ivp(
        lambda s, y: f(torch.tensor(s, dtype=F64), torch.as_tensor(y)).numpy(),
        (times[0], times[-1]),
        y0,
        method="DOP853",
        rtol=1e-13,
        atol=1e-13,
        t_eval=times,
    ).y.T


@pytest.mark.parametrize("system", [LotkaVolterra(), VanDerPol(5.0), Lorenz63()])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("method", ["tsit5", "dopri5"])
def test_adaptive_solution_against_scipy(system, stepping, method):
    times = np.linspace(0.0, 3.0, 13)
    first = torch.tensor(system.initial, dtype=F64)
    y0 = torch.stack([first, 1.1 * first + 0.1, 0.8 * first])
    expected = np.stack([reference(system, y.numpy(), times) for y in y0])
    got = solve_ode(system, y0, times, method=method, stepping=stepping, rtol=1e-9, atol=1e-9, adjoint=None)
    np.testing.assert_allclose(got.y.numpy(), expected, rtol=2e-6, atol=2e-6)
    assert got.success


def test_decreasing_times_retrace_the_solution():
    system = LotkaVolterra()
    y0 = torch.tensor([[30.0, 5.0], [10.0, 20.0]], dtype=F64)
    times = torch.linspace(0, 10, 5, dtype=F64)
    there = solve_ode(system, y0, times, rtol=1e-10, atol=1e-10, adjoint=None)
    back = solve_ode(system, there.y[:, -1], times.flip(0), rtol=1e-10, atol=1e-10, adjoint=None)
    torch.testing.assert_close(back.y.flip(1), there.y, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("stepping", ["shared", "per_sample", "fixed"])
def test_states_of_any_shape_see_the_shape_they_were_given(stepping):
    seen = set()

    def f(t, y):
        seen.add((tuple(t.shape), tuple(y.shape)))
        return -y

    for shape in [(3,), (2, 3), (2, 3, 4)]:
        seen.clear()
        y0 = torch.rand(shape, dtype=F64) + 1
        solution = solve_ode(f, y0, [0.0, 0.5, 1.0], stepping=stepping, dt0=0.01, adjoint=None)
        batch = shape if len(shape) > 1 else (1, *shape)
        assert solution.y.shape == (batch[0], 3, *batch[1:])
        time = (batch[0],) if stepping == "per_sample" and len(shape) > 1 else ()
        assert seen == {(time, shape)}
        torch.testing.assert_close(solution.y[:, -1], y0.reshape(batch) * np.exp(-1.0), rtol=1e-5, atol=1e-7)


def test_complex_states():
    y0 = torch.tensor([[1.0 + 0.0j]], dtype=torch.complex128)
    solution = solve_ode(lambda t, y: 1j * y, y0, [0.0, 2.0], rtol=1e-10, atol=1e-10, adjoint=None)
    np.testing.assert_allclose(solution.y[0, -1].numpy(), np.exp(2j), rtol=1e-8)
