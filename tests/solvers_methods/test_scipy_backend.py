"""SciPy's solvers behind solve_ode: their own values, per sample, with gradients through their steps."""

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidyn.errors import OptionError, SolverError
from scidyn.solvers import solve_ode

F64 = torch.float64
TIMES = np.linspace(0.0, 3.0, 7)


def field(t, y, theta=None):
    rate = 1.0 if theta is None else theta
    x, v = y.unbind(-1)
    return torch.stack([v, rate * 5.0 * (1 - x * x) * v - x + torch.sin(t)], dim=-1)


def scipy_alone(y0, method, **options):
    def rate(t, y):
        return field(torch.tensor(t, dtype=F64), torch.as_tensor(y)).numpy()

    return solve_ivp(rate, (0, 3), y0, method, TIMES, **options)


@pytest.mark.parametrize("method", ["Radau", "BDF", "LSODA", "DOP853", "RK45", "RK23"])
def test_values_are_those_of_scipy(method):
    y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=F64)
    got = solve_ode(field, y0, TIMES, backend="scipy", method=method, rtol=1e-6, atol=1e-8, adjoint=None)
    for i in range(2):
        alone = scipy_alone(y0[i].numpy(), method, rtol=1e-6, atol=1e-8)
        np.testing.assert_allclose(got.y[i].numpy(), alone.y.T, rtol=1e-10, atol=1e-10)
    assert got.success
    assert got.stats.n_accepted.shape == (2,)


@pytest.mark.parametrize("method", ["Radau", "LSODA", "DOP853"])
def test_gradient_through_the_steps(method):
    y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=F64, requires_grad=True)
    theta = torch.tensor(1.0, dtype=F64, requires_grad=True)

    def loss(backend, name):
        options = {"rtol": 1e-6, "atol": 1e-8, "stepping": "per_sample"}
        return (
            solve_ode(field, y0, [0.0, 0.7, 1.0], args=theta, backend=backend, method=name, **options).y.square().sum()
        )

    got = torch.autograd.grad(loss("scipy", method), [y0, theta])
    expected = torch.autograd.grad(loss("native", "dopri8"), [y0, theta])
    for one, other in zip(got, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=2e-4, atol=2e-5)


def test_own_times_decreasing_times_and_dense_output():
    y0 = torch.tensor([[2.0, 0.0], [0.5, 1.0]], dtype=F64)
    times = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, torch.nan]], dtype=F64)
    got = solve_ode(field, y0, times, backend="scipy", method="Radau", rtol=1e-8, atol=1e-10, adjoint=None, dense=True)
    native = solve_ode(
        field, y0, times, method="dopri8", stepping="per_sample", rtol=1e-10, atol=1e-12, adjoint=None, dense=True
    )
    torch.testing.assert_close(got.y, native.y, rtol=1e-5, atol=1e-6, equal_nan=True)
    inner = torch.tensor([0.1, 0.37], dtype=F64)
    torch.testing.assert_close(got.dense(inner), native.dense(inner), rtol=1e-5, atol=1e-6)
    times = [2.0, 1.0, 0.0]
    back = solve_ode(
        lambda t, y: -y, torch.ones(1, 1, dtype=F64), times, backend="scipy", method="LSODA", rtol=1e-9, adjoint=None
    )
    np.testing.assert_allclose(back.y[0, :, 0].numpy(), np.exp([0.0, 1.0, 2.0]), rtol=1e-7)


def test_coupled_samples_and_parameters_of_samples():
    weights = torch.tensor([[1.0], [2.0], [3.0]], dtype=F64)
    y0 = torch.ones(3, 1, dtype=F64)
    own = solve_ode(lambda t, y: -weights * y, y0, [0.0, 1.0], backend="scipy", method="BDF", adjoint=None)
    torch.testing.assert_close(own.y[:, -1], torch.exp(-weights), rtol=1e-4, atol=1e-5)

    def coupled(t, y):
        return y.mean(dim=0, keepdim=True) - 2 * y * weights

    expected = solve_ode(coupled, y0, [0.0, 1.0], method="dopri8", rtol=1e-11, atol=1e-12, adjoint=None)
    for stepping in ("shared", "per_sample"):
        got = solve_ode(coupled, y0, [0.0, 1.0], backend="scipy", method="Radau", stepping=stepping, adjoint=None)
        torch.testing.assert_close(got.y, expected.y, rtol=1e-4, atol=1e-5)


def test_failures_are_reported_for_their_sample():
    y0 = torch.tensor([[1.0], [-1.0]], dtype=F64)
    with pytest.raises(SolverError, match="sample 0"):
        solve_ode(lambda t, y: y * y, y0, [0.0, 2.0], backend="scipy", method="LSODA", adjoint=None)
    got = solve_ode(
        lambda t, y: y * y, y0, [0.0, 2.0], backend="scipy", method="Radau", adjoint=None, on_failure="return"
    )
    assert torch.isnan(got.y[0, -1]).all()
    torch.testing.assert_close(got.y[1, -1], torch.tensor([-1 / 3], dtype=F64), rtol=1e-4, atol=1e-5)
    with pytest.raises(OptionError, match="Radau"):
        solve_ode(lambda t, y: -y, y0, [0.0, 2.0], backend="scipy", method="tsit5", adjoint=None)
    with pytest.raises(OptionError, match="LSODA"):
        solve_ode(lambda t, y: -y, y0 + 0j, [0.0, 2.0], backend="scipy", method="LSODA", adjoint=None)
