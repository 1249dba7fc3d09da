"""Fields that depend on neither state nor parameters: the gradient by the initial state is the identity."""

import pytest
import torch

from scidyn.solvers import solve_ode

F64 = torch.float64
EXPLICIT = ("auto", "discrete", "direct", "timeparallel", "forward", "reversible", "interpolating", "backsolve")
IMPLICIT = ("auto", "discrete", "direct", "timeparallel", "forward", "interpolating")
WAYS = [(name, {"stepping": way}) for name in EXPLICIT for way in ("shared", "per_sample")]
WAYS += [(name, {"method": "rk4", "stepping": "fixed", "dt0": 0.1}) for name in EXPLICIT]
WAYS += [(name, {"method": method}) for name in IMPLICIT for method in ("kvaerno3", "rodas5p")]


@pytest.mark.parametrize("width", [2, 12])
@pytest.mark.parametrize("rate", [lambda t, y: torch.ones_like(y), lambda t, y: 0.0 * y.detach() + 2.0 * t.mean()])
@pytest.mark.parametrize(("adjoint", "options"), WAYS)
def test_gradient_is_the_identity(adjoint, options, rate, width):
    y0 = torch.arange(3.0 * width, dtype=F64).reshape(3, width).requires_grad_()
    unused = torch.ones(2, dtype=F64, requires_grad=True)
    times = torch.linspace(0, 1, 4, dtype=F64)
    y = solve_ode(rate, y0, times, adjoint=adjoint, params=[unused], **options).y
    weights = torch.linspace(-1, 2, y.numel(), dtype=F64).reshape(y.shape)
    got, by_unused = torch.autograd.grad((weights * y).sum(), [y0, unused], allow_unused=True)
    torch.testing.assert_close(got, weights.sum(dim=1), rtol=1e-12, atol=1e-12)
    assert by_unused is None or not by_unused.any()


@pytest.mark.parametrize("adjoint", ["auto", "discrete", "direct", "timeparallel"])
def test_second_derivative_vanishes(adjoint):
    y0 = torch.ones(1, 2, dtype=F64, requires_grad=True)
    y = solve_ode(lambda t, y: torch.ones_like(y), y0, [0.0, 0.3, 1.0], adjoint=adjoint).y
    (first,) = torch.autograd.grad((y**2).sum(), y0, create_graph=True)
    # d/dy0 of 2 (y0 + (y0 + 0.3) + (y0 + 1))
    torch.testing.assert_close(first, torch.full_like(y0, 8.6))
    torch.testing.assert_close(torch.autograd.grad(first.sum(), y0)[0], torch.full_like(y0, 6.0))
