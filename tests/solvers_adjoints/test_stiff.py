"""Gradients of Robertson's chemistry against SciPy's Radau on the variational equations."""

import functools

import numpy as np
import pytest
import torch
from pendulums import F64
from scipy.integrate import solve_ivp

from scidyn.solvers import sol_jacobian, solve_ode

RATES = np.array([0.04, 1e4, 3e7])
TIMES = [0.0, 0.4, 4.0, 40.0]
ATOL = torch.tensor([1e-7, 1e-11, 1e-7], dtype=F64)


def robertson(t, y, logs):
    a, b, c = y.unbind(-1)
    scale = torch.exp(logs)
    first, second, third = RATES[0] * scale[0] * a, RATES[1] * scale[1] * b * c, RATES[2] * scale[2] * b * b
    return torch.stack([second - first, first - second - third, third], dim=-1)


@functools.cache
def reference():
    """States, and their derivatives by the logarithms of the rate constants, shape (time, 3, 3)."""

    def rate(t, z):
        (a, b, c), s = z[:3], z[3:].reshape(3, 3)
        k1, k2, k3 = RATES
        jac = np.array([[-k1, k2 * c, k2 * b], [k1, -k2 * c - 2 * k3 * b, -k2 * b], [0, 2 * k3 * b, 0]])
        r1, r2, r3 = k1 * a, k2 * b * c, k3 * b * b
        by_logs = np.array([[-r1, r2, 0], [r1, -r2, -r3], [0, 0, r3]])
        return np.concatenate([[r2 - r1, r1 - r2 - r3, r3], (jac @ s + by_logs).reshape(-1)])

    start = np.concatenate([[1.0, 0, 0], np.zeros(9)])
    atol = np.array([1e-12, 1e-16, 1e-12, *([1e-13] * 3 + [1e-17] * 3 + [1e-13] * 3)])
    found = solve_ivp(rate, (0, 40), start, "Radau", TIMES, rtol=1e-10, atol=atol).y.T
    return torch.as_tensor(found[:, :3]), torch.as_tensor(found[:, 3:].reshape(-1, 3, 3))


@pytest.mark.parametrize(("adjoint", "allowed"), [("discrete", 3e-6), ("interpolating", 2e-5), ("forward", 3e-6)])
def test_gradient_of_a_stiff_solve(adjoint, allowed):
    logs = torch.zeros(3, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    setup = {"method": "rodas5p", "rtol": 1e-4, "atol": ATOL, "adjoint": adjoint}
    y = solve_ode(robertson, y0, TIMES, args=logs, **setup).y[0]
    weight = torch.tensor([1.0, 2e4, -1.0], dtype=F64)
    (got,) = torch.autograd.grad((weight * y[1:]).sum(), logs)
    want = torch.einsum("d,tdp->p", weight, reference()[1][1:])
    assert ((got - want).abs().max() / want.abs().max()).item() < allowed


def test_jacobian_of_a_stiff_solve():
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64)
    setup = {"method": "kvaerno5", "rtol": 1e-4, "atol": ATOL}
    solution, jacobian = sol_jacobian(robertson, y0, TIMES, args=torch.zeros(3, dtype=F64), wrt=("args",), **setup)
    states, wanted = reference()
    torch.testing.assert_close(solution.y[0], states, rtol=1e-4, atol=1e-10)
    scale = wanted[1:].abs().amax(dim=2, keepdim=True)
    assert ((jacobian["args"][0, 1:] - wanted[1:]).abs() / scale).max() < 1e-3
