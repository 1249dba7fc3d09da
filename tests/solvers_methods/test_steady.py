"""Steady states and fixed points against closed forms, and their implicit derivatives."""

import pytest
import torch

from scidyn.errors import OptionError, ShapeError, SolverError
from scidyn.solvers import fixed_point, solve_ode, solve_steady_state
from scidyn.solvers.linear import LinearAlgebra

F64 = torch.float64


@pytest.mark.parametrize("method", ["newton", "transient"])
def test_linear_steady_state_and_its_gradient(method):
    theta = torch.tensor([1.5, -2.0], dtype=F64, requires_grad=True)
    steady = solve_steady_state(lambda t, y: theta - y, torch.zeros(3, 2, dtype=F64), method=method)
    torch.testing.assert_close(steady.y, theta.expand(3, 2), rtol=1e-12, atol=1e-12)
    (grad,) = torch.autograd.grad(steady.y.sum(), theta)
    torch.testing.assert_close(grad, torch.full((2,), 3.0, dtype=F64))


def repressor(theta):
    def f(t, y):
        return theta[0] / (1 + y.roll(1, dims=-1) ** 4) - theta[1] * y

    return f


ALGEBRAS = [LinearAlgebra(), LinearAlgebra("krylov")]


@pytest.mark.parametrize("algebra", ALGEBRAS, ids=lambda a: a.linear_solver)
def test_first_and_second_derivatives(algebra):
    theta = torch.tensor([1.2, 0.8], dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.5, 0.2], [0.1, 0.1, 2.0]], dtype=F64)

    def solve(theta):
        return solve_steady_state(repressor(theta), y0, algebra=algebra).y

    assert (repressor(theta)(0.0, solve(theta)).abs() < 1e-12).all()
    assert torch.autograd.gradcheck(solve, theta, atol=1e-6)
    if algebra.linear_solver == "dense":
        assert torch.autograd.gradgradcheck(solve, theta, atol=1e-5)


def test_transient_follows_the_dynamics_to_the_stable_state():
    """y' = y - y^3 from both sides of the unstable state zero."""
    y0 = torch.tensor([[0.01], [-0.01], [3.0]], dtype=F64)

    def f(t, y):
        return y - y**3

    steady = solve_steady_state(f, y0)
    expected = solve_ode(f, y0, [0.0, 60.0], rtol=1e-10, atol=1e-12, adjoint=None).y[:, -1]
    torch.testing.assert_close(steady.y, expected, rtol=1e-8, atol=1e-8)
    # Newton's method goes to the nearest root, stable or not
    assert abs(solve_steady_state(f, y0[:1], method="newton").y.item()) < 1e-9


def test_stiff_chemistry():
    def f(t, y):
        a, b, c = y.unbind(-1)
        inflow, r1, r2, r3 = 0.01 * (1 - a), 0.04 * a, 1e4 * b * c, 3e7 * b * b
        return torch.stack([inflow - r1 + r2, r1 - r2 - r3 - 0.01 * b, r3 - 0.01 * c], dim=-1)

    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    steady = solve_steady_state(f, y0)
    assert steady.residual.item() < 1e-8
    expected = solve_ode(f, y0, [0.0, 1e4], method="rodas5p", rtol=1e-8, atol=1e-12, adjoint=None).y[:, -1]
    torch.testing.assert_close(steady.y, expected, rtol=1e-6, atol=1e-10)
    assert steady.iterations < 60


def test_failures_and_bad_arguments():
    y0 = torch.ones(2, 1, dtype=F64)
    nowhere = torch.tensor([[1.0], [-1.0]], dtype=F64)
    with pytest.raises(SolverError, match="1 of 2 samples found no steady state"):
        solve_steady_state(lambda t, y: nowhere * 0.5 + y * y * nowhere.clamp_min(0) - y * nowhere.clamp_max(0) * 0, y0)
    got = solve_steady_state(lambda t, y: 1 + y * y, y0, on_failure="return", max_iterations=20)
    assert torch.isnan(got.y).all()
    assert not got.converged.any()
    with pytest.raises(ShapeError, match="batch"):
        solve_steady_state(lambda t, y: -y, torch.ones(2))
    with pytest.raises(ShapeError, match="returned shape"):
        solve_steady_state(lambda t, y: -y[:1], y0)
    with pytest.raises(OptionError, match="method"):
        solve_steady_state(lambda t, y: -y, y0, method="magic")


@pytest.mark.parametrize("dtype", [F64, torch.float32])
def test_fixed_point_of_a_contraction(dtype):
    torch.manual_seed(0)
    weight = 0.9 * torch.linalg.qr(torch.randn(8, 8, dtype=dtype))[0]
    bias = torch.randn(4, 8, dtype=dtype)

    def g(z):
        return torch.tanh(z @ weight.T) * 0.9 + bias

    found = fixed_point(g, torch.zeros(4, 8, dtype=dtype), rtol=1e-5, atol=1e-5)
    exact = torch.zeros(4, 8, dtype=dtype)
    for _ in range(400):
        exact = g(exact)
    torch.testing.assert_close(found.y, exact, rtol=1e-4, atol=1e-4)
    # plain iteration contracts by 0.8 at best
    assert found.iterations < 30


def test_fixed_point_gradients():
    torch.manual_seed(0)
    weight = (0.3 * torch.randn(3, 3, dtype=F64)).requires_grad_()
    bias = torch.randn(2, 3, dtype=F64, requires_grad=True)

    def solve(weight, bias):
        return fixed_point(lambda z: torch.tanh(z @ weight.T + bias), torch.zeros(2, 3, dtype=F64), rtol=1e-9).y

    assert torch.autograd.gradcheck(solve, (weight, bias), atol=1e-6)
    dense = LinearAlgebra()

    def solve_dense(weight, bias):
        start = torch.zeros(2, 3, dtype=F64)
        return fixed_point(lambda z: torch.tanh(z @ weight.T + bias), start, rtol=1e-9, algebra=dense).y

    assert torch.autograd.gradgradcheck(solve_dense, (weight, bias), atol=1e-5)


def test_fixed_point_that_does_not_exist():
    with pytest.raises(SolverError, match="found no fixed point"):
        fixed_point(lambda z: z + 1.0, torch.zeros(1, 1, dtype=F64))
