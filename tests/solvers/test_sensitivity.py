"""Forward sensitivities against autograd and a closed form."""

import math

import pytest
import torch

from scidyn.errors import OptionError, ShapeError
from scidyn.solvers import solve_ode, solve_sensitivities
from scidyn.systems import LotkaVolterra

F64 = torch.float64
Y0 = torch.tensor([[30.0, 5.0], [10.0, 20.0], [50.0, 3.0]], dtype=F64)
TIMES = torch.linspace(0, 6, 7, dtype=F64)


@pytest.mark.parametrize("rows", [False, True])
@pytest.mark.parametrize(("stepping", "dt0"), [("shared", None), ("per_sample", None), ("fixed", 0.1)])
def test_sensitivities_equal_the_direct_gradient(stepping, dt0, rows):
    system = LotkaVolterra()
    theta = system.theta()
    theta = theta.repeat(3, 1) * torch.tensor([[1.0], [1.1], [0.9]], dtype=F64) if rows else theta
    options = {"stepping": stepping, "dt0": dt0}
    solution, d_args, d_y0 = solve_sensitivities(system, Y0, TIMES, theta, **options)
    p, start = theta.clone().requires_grad_(), Y0.clone().requires_grad_()
    y = solve_ode(system, start, TIMES, args=p, adjoint="direct", **options).y
    torch.testing.assert_close(solution.y, y, rtol=0, atol=1e-12)
    weight = torch.randn(y.shape, dtype=F64, generator=torch.Generator().manual_seed(0))
    by_p, by_start = torch.autograd.grad((y * weight).sum(), [p, start])
    expected = torch.einsum("btd,btdp->bp", weight, d_args)
    torch.testing.assert_close(by_p, expected if rows else expected.sum(0), rtol=1e-10, atol=1e-9)
    torch.testing.assert_close(by_start, torch.einsum("btd,btdp->bp", weight, d_y0), rtol=1e-10, atol=1e-9)


def test_one_trajectory_without_a_batch_axis_and_without_parameters():
    rotation = torch.tensor([[0.0, -1.0], [1.0, 0.0]], dtype=F64)
    solution, d_args, d_y0 = solve_sensitivities(
        lambda t, y: rotation @ y, torch.tensor([1.0, 0.0], dtype=F64), [0.0, 1.0], rtol=1e-10, atol=1e-10
    )
    expected = torch.tensor([[math.cos(1), -math.sin(1)], [math.sin(1), math.cos(1)]], dtype=F64)
    torch.testing.assert_close(d_y0[0, -1], expected, rtol=1e-8, atol=1e-8)
    assert d_args.shape == (1, 2, 2, 0)
    assert solution.success


def test_rows_not_reached_are_nan():
    y0 = torch.tensor([[0.1], [2.0]], dtype=F64)
    _, d_args, d_y0 = solve_sensitivities(
        lambda t, y, k: k * y * y,
        y0,
        [0.0, 1.0],
        torch.ones(1, dtype=F64),
        stepping="per_sample",
        on_failure="return",
    )
    assert bool(d_y0[1, 1].isnan().all())
    assert bool(d_args[1, 1].isnan().all())
    assert bool(d_y0[0].isfinite().all())


def test_wrong_parameters_are_refused():
    with pytest.raises(ShapeError, match="args must have shape"):
        solve_sensitivities(LotkaVolterra(), Y0, TIMES, torch.ones(2, 4, dtype=F64))
    with pytest.raises(OptionError, match="differentiated forwards"):
        solve_sensitivities(lambda t, y, k: k * y * t.item(), Y0, TIMES, torch.ones(1, dtype=F64))
