"""The numerical core on a device that this machine does not have."""

import pytest
import torch
from torch._subclasses.fake_tensor import FakeTensorMode

from scidyn.transport.cost import EuclideanCost, MatrixCost, SquaredCost
from scidyn.transport.fixed_point import marginal_error
from scidyn.transport.gradients import pull_back
from scidyn.transport.kernel import StreamedKernel, soft_minimum
from scidyn.transport.one_dimensional import quantile_costs
from scidyn.transport.plan_tiles import multiply, plan_tile
from scidyn.transport.problem import Problem


@pytest.mark.parametrize("kind", [SquaredCost, EuclideanCost, MatrixCost])
@pytest.mark.parametrize("tau", [1.0, 0.8])
def test_a_sweep_and_a_product_stay_on_the_device_and_read_nothing(fake_device, kind, tau):
    with FakeTensorMode():
        x, y = torch.randn(40, 3, device=fake_device), torch.randn(30, 3, device=fake_device)
        cost = kind(torch.randn(40, 30, device=fake_device)) if kind is MatrixCost else kind(x, y)
        a = torch.full((40,), 1 / 40, dtype=torch.float64, device=fake_device)
        b = torch.full((30,), 1 / 30, dtype=torch.float64, device=fake_device)
        problem = Problem(cost, a, b, 0.1, tau, tau)
        # any .item(), bool() or mixture of devices raises here
        phi, sums = StreamedKernel(problem).sweep(torch.zeros_like(b))
        residual = -tau * sums
        results = [
            phi,
            residual,
            soft_minimum(problem.T, phi),
            marginal_error(problem, residual, residual),
            problem.dual(phi, residual, problem.mass_by_rows(phi)),
            plan_tile(problem, phi, residual, slice(0, 7)),
            multiply(problem, phi, residual, torch.ones(30, device=fake_device)),
            *[t for t in pull_back(problem, phi, residual, a[:, None], b[:, None]) if t is not None],
        ]
        assert {t.device.type for t in results} == {"fakegpu"}


def test_sorting_stays_on_the_device(fake_device):
    with FakeTensorMode():
        x, y = torch.randn(4, 40, device=fake_device), torch.randn(4, 30, device=fake_device)
        assert quantile_costs(x, y, p=2).device.type == "fakegpu"
