"""Gradients over steps many thousand times as long as the fastest time scale, against sensitivity equations."""

import functools

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidyn.solvers import solve_ode

F64 = torch.float64
CONSTANTS = [0.04, 3e7, 1e4]
END = 1e5


@functools.cache
def sensitivities():
    """Derivatives of the first species of Robertson's problem by its constants and start, by SciPy's Radau at 1e-10."""

    def rate(t, z):
        (p, q, r), (a, b, c), s = CONSTANTS, z[:3], z[3:].reshape(3, 6)
        by_state = np.array([[-p, r * c, r * b], [p, -2 * q * b - r * c, -r * b], [0, 2 * q * b, 0]])
        change = by_state @ s
        change[:, :3] += [[-a, 0, b * c], [a, -b * b, -b * c], [0, b * b, 0]]
        slope = [-p * a + r * b * c, p * a - q * b * b - r * b * c, q * b * b]
        return np.concatenate([slope, change.ravel()])

    start = np.concatenate([[1.0, 0.0, 0.0], np.eye(3, 6, 3).ravel()])
    return solve_ivp(rate, (0, END), start, "Radau", rtol=1e-10, atol=[1e-14] * 3 + [1e-13] * 18).y[3:9, -1]


def gradient(method, adjoint, rtol, atol):
    k = torch.tensor(CONSTANTS, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0, 0.0, 0.0]], dtype=F64, requires_grad=True)

    def rate(t, y):
        a, b, c = y.unbind(-1)
        first, second, third = k[0] * a, k[1] * b * b, k[2] * b * c
        return torch.stack([third - first, first - second - third, second], dim=-1)

    y = solve_ode(rate, y0, [0.0, END], method=method, adjoint=adjoint, params=[k], rtol=rtol, atol=atol).y
    return torch.cat([x.flatten() for x in torch.autograd.grad(y[0, 1, 0], [k, y0])])


# the error of the gradient is that of the solution, which the tolerance sets
@pytest.mark.parametrize(
    ("method", "rtol", "atol", "allowed"),
    [
        ("kvaerno5", 1e-3, 1e-6, 1e-4),
        ("kvaerno5", 1e-4, 1e-8, 1e-5),
        pytest.param("kvaerno5", 1e-6, 1e-6, 1e-5, marks=pytest.mark.slow),
        ("kvaerno3", 1e-3, 1e-6, 1e-3),
        pytest.param("rodas5p", 1e-6, 1e-10, 1e-6, marks=pytest.mark.slow),
    ],
)
def test_gradient_equals_the_sensitivity_equations(method, rtol, atol, allowed):
    got = gradient(method, "discrete", rtol, atol)
    torch.testing.assert_close(got, torch.as_tensor(sensitivities()), rtol=allowed, atol=0.0)


@pytest.mark.parametrize("method", ["kvaerno5"])
def test_discrete_equals_direct_where_the_states_are_resolved(method):
    one, other = (gradient(method, adjoint, 1e-4, 1e-8) for adjoint in ("discrete", "direct"))
    # the rate at a state known to rounding is itself uncertain by the stiffness times rounding
    torch.testing.assert_close(one, other, rtol=1e-8, atol=0.0)
