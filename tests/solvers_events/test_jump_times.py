"""One-compartment pharmacokinetics with bolus doses, and a rate that switches, in closed form."""

import pytest
import torch

from scidyn.errors import OptionError, TimeGridError
from scidyn.solvers import solve_ode

F64 = torch.float64
DOSES = [0.0, 8.0, 16.0]


def amount(t, k, dose):
    return sum(dose * torch.exp(-k * (t - s)) * (t >= s) for s in DOSES)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("last", [16.0, 24.0])
def test_bolus_doses(stepping, last):
    k = torch.tensor([0.1, 0.3], dtype=F64, requires_grad=True)
    dose = torch.tensor(50.0, dtype=F64, requires_grad=True)
    t = torch.linspace(0.0, last, 13, dtype=F64)
    solution = solve_ode(
        lambda t, y: -k.unsqueeze(1) * y,
        torch.zeros(2, 1, dtype=F64),
        t,
        stepping=stepping,
        rtol=1e-9,
        jump_times=DOSES,
        jump=lambda t, y: y + dose,
    )
    exact = amount(t.unsqueeze(0), k.unsqueeze(1), dose)
    torch.testing.assert_close(solution.y[..., 0], exact, rtol=1e-7, atol=1e-9)
    found = torch.autograd.grad(solution.y[:, -1].sum(), (k, dose))
    wanted = torch.autograd.grad(exact[:, -1].sum(), (k, dose))
    for mine, closed in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, closed, rtol=1e-6, atol=1e-9)


def test_a_switching_rate_costs_no_rejections():
    t = torch.tensor([0.0, 1.0, 2.0], dtype=F64)
    f = lambda t, y: torch.where(t < 0.7, 1.0, -2.0) * torch.ones_like(y)  # noqa: E731
    solution = solve_ode(f, torch.zeros(1, 1, dtype=F64), t, jump_times=[0.7])
    torch.testing.assert_close(solution.y[0, :, 0], torch.tensor([0.0, 0.1, -1.9], dtype=F64), rtol=1e-12, atol=1e-12)
    assert solution.stats.n_rejected.item() == 0


def test_backwards_in_time_jumps_come_in_reverse():
    t = torch.tensor([1.0, 0.25, 0.0], dtype=F64)
    start = torch.ones(1, 1, dtype=F64)
    solution = solve_ode(lambda t, y: -y, start, t, rtol=1e-9, jump_times=[0.5], jump=lambda t, y: 2 * y)
    exact = torch.tensor([1.0, 2.0, 2.0], dtype=F64) * torch.exp(1.0 - t)
    torch.testing.assert_close(solution.y[0, :, 0], exact, rtol=1e-7, atol=0)


def test_wrong_use_is_refused():
    y0 = torch.ones(1, 1, dtype=F64)
    with pytest.raises(TimeGridError, match="outside the span"):
        solve_ode(lambda t, y: -y, y0, [0.0, 1.0], jump_times=[2.0])
    with pytest.raises(OptionError, match="jump_times"):
        solve_ode(lambda t, y: -y, y0, [0.0, 1.0], jump=lambda t, y: y)


@pytest.mark.parametrize(
    "options", [{"adjoint": "reversible"}, {"adjoint": "backsolve"}, {"checkpoints": 4}, {"regularize": "error"}]
)
def test_gradients_that_know_no_jumps_are_refused(options):
    y0 = torch.ones(1, 1, dtype=torch.float64)
    with pytest.raises(OptionError, match="jump_times"):
        solve_ode(lambda t, y: -y, y0, [0.0, 1.0], jump_times=[0.5], **options)
