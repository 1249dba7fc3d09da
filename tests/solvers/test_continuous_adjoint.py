"""Backsolve and interpolating adjoints against the matrix exponential and the discrete gradient."""

import math

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode

F64 = torch.float64
TIMES = torch.tensor([0.0, 0.4, 1.0], dtype=F64)
KINDS = ["backsolve", "interpolating"]


@pytest.mark.parametrize("adjoint", KINDS)
@pytest.mark.parametrize(("method", "dt0"), [("tsit5", None), ("rk4", 0.05)])
def test_matrix_exponential(adjoint, method, dt0):
    A = torch.tensor([[-0.5, 1.0], [-2.0, 0.1]], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.3], [-0.4, 0.8]], dtype=F64, requires_grad=True)
    t = TIMES.clone().requires_grad_()
    y = solve_ode(lambda t, y: y @ A.T, y0, t, method=method, dt0=dt0, adjoint=adjoint, rtol=1e-10, atol=1e-12).y
    exact = torch.stack([y0 @ torch.linalg.matrix_exp(A * (s - t[0])).T for s in t], dim=1)
    weight = torch.linspace(-1, 2, y.numel(), dtype=F64).reshape(y.shape)
    allowed = 1e-8 if method == "tsit5" else 2e-5
    for got, want in zip(
        torch.autograd.grad(y, [A, y0, t], weight), torch.autograd.grad(exact, [A, y0, t], weight), strict=True
    ):
        torch.testing.assert_close(got, want, rtol=allowed, atol=allowed)


def pendulum(adjoint, tolerance, **options):
    generator = torch.Generator().manual_seed(3)
    w = (0.5 * torch.randn(3, 2, dtype=F64, generator=generator)).requires_grad_()
    y0 = torch.randn(3, 3, dtype=F64, generator=generator).requires_grad_()
    computed = torch.cat([w, w.sum(dim=1, keepdim=True)], dim=1)

    def f(t, y):
        return torch.tanh(y @ computed) - 0.3 * y * torch.cos(t).reshape(-1, 1) + w.sum()

    y = solve_ode(f, y0, TIMES, adjoint=adjoint, rtol=tolerance, atol=tolerance, **options).y
    return torch.cat([g.reshape(-1) for g in torch.autograd.grad((y[:, 1:] ** 2).sum(), [y0, w])])


@pytest.mark.parametrize("adjoint", KINDS)
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_converges_to_the_discrete_gradient(adjoint, stepping):
    exact = pendulum("discrete", 1e-12)
    errors = [(pendulum(adjoint, tol, stepping=stepping) - exact).abs().max() for tol in (1e-4, 1e-7, 1e-10)]
    assert errors[0] < 1e-2
    assert errors[1] < 0.05 * errors[0]
    assert errors[2] < 3e-8


def test_interpolating_with_an_implicit_method():
    rate = torch.tensor([100.0, 1.0], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 2.0]], dtype=F64, requires_grad=True)
    options = {"method": "kvaerno5", "rtol": 1e-7, "atol": 1e-10}
    y = solve_ode(lambda t, y: -rate * (y - torch.cos(t)), y0, [0.0, 0.2], adjoint="interpolating", **options).y
    got = torch.autograd.grad(y[:, -1].sum(), [rate, y0])
    y = solve_ode(lambda t, y: -rate * (y - torch.cos(t)), y0, [0.0, 0.2], rtol=1e-11, atol=1e-13).y
    want = torch.autograd.grad(y[:, -1].sum(), [rate, y0])
    for a, b in zip(got, want, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_rows_of_their_own_lengths():
    rate = torch.tensor([0.5, 1.0, 2.0], dtype=F64, requires_grad=True)
    t = torch.tensor([[0.0, 1.0, 2.0], [0.0, 0.5, math.nan], [0.0, 1.0, 1.5]], dtype=F64)
    known = ~torch.isnan(t)
    exact = torch.exp(-rate[:, None] * t.nan_to_num())[known]
    for adjoint in KINDS:
        y = solve_ode(
            lambda t, y: -rate[:, None] * y,
            torch.ones(3, 1, dtype=F64),
            t,
            stepping="per_sample",
            adjoint=adjoint,
            rtol=1e-9,
            atol=1e-11,
        ).y[..., 0]
        got, want = (torch.autograd.grad(x.sum(), rate, retain_graph=True)[0] for x in (y[known], exact))
        torch.testing.assert_close(got, want, rtol=1e-7, atol=1e-8)


@pytest.mark.parametrize("method", ["kvaerno5", "rodas5p", "auto"])
def test_backsolve_refuses_stiff_methods(method):
    with pytest.raises(OptionError, match="cannot be solved backwards"):
        solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], method=method, adjoint="backsolve")
