"""One-compartment pharmacokinetics with bolus doses, and a rate that switches, in closed form."""

import pytest
import torch

from scidyn.errors import NonFiniteError, OptionError, ShapeError, TimeGridError
from scidyn.solvers import Event, LocalError, solve_ode

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


OPTIONS = [
    {"adjoint": "direct"},
    {"adjoint": "reversible"},
    {"adjoint": "interpolating"},
    {"checkpoints": 4},
    {"regularize": LocalError()},
    {"method": "rk4", "stepping": "fixed", "dt0": 0.05},
    {"method": "rodas5p"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=lambda o: str(next(iter(o.values()))))
def test_every_adjoint_and_stepping_goes_with_jumps(options):
    k = torch.tensor([0.1, 0.3], dtype=F64, requires_grad=True)
    dose = torch.tensor(50.0, dtype=F64, requires_grad=True)
    t = torch.tensor([0.0, 8.0, 18.0], dtype=F64)
    solution = solve_ode(
        lambda t, y: -k.unsqueeze(1) * y,
        torch.zeros(2, 1, dtype=F64),
        t,
        jump_times=DOSES,
        jump=lambda t, y: y + dose,
        **{"rtol": 1e-8, "method": "dopri8", **options},
    )
    exact = amount(t.unsqueeze(0), k.unsqueeze(1), dose)
    torch.testing.assert_close(solution.y[..., 0], exact, rtol=2e-7, atol=1e-9)
    found, wanted = (torch.autograd.grad(y[:, -1].sum(), (k, dose)) for y in (solution.y, exact))
    for mine, closed in zip(found, wanted, strict=True):
        torch.testing.assert_close(mine, closed, rtol=1e-6, atol=1e-9)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_dense_output_between_doses(stepping):
    k, dose = torch.tensor([0.1, 0.3], dtype=F64), 50.0
    solution = solve_ode(
        lambda t, y: -k.unsqueeze(1) * y,
        torch.zeros(2, 1, dtype=F64),
        [0.0, 24.0],
        stepping=stepping,
        rtol=1e-9,
        dense=True,
        jump_times=DOSES,
        jump=lambda t, y: y + dose,
    )
    t = torch.linspace(0.05, 23.95, 60, dtype=F64)
    torch.testing.assert_close(
        solution.dense(t)[..., 0], amount(t.unsqueeze(0), k.unsqueeze(1), dose), rtol=1e-6, atol=0
    )


def test_each_subject_has_doses_and_samples_at_times_of_its_own():
    k = torch.tensor([0.2, 0.5], dtype=F64)
    doses = torch.tensor([[1.0, 4.0, 6.5], [2.0, torch.nan, torch.nan]], dtype=F64, requires_grad=True)
    t = torch.tensor([[0.0, 3.0, 5.0, 9.0], [1.0, 2.0, 4.0, torch.nan]], dtype=F64)
    solution = solve_ode(
        lambda t, y: -k.unsqueeze(1) * y,
        torch.ones(2, 1, dtype=F64),
        t,
        stepping="per_sample",
        rtol=1e-9,
        atol=1e-11,
        jump_times=doses,
        jump=lambda t, y: y + 10.0 * t.unsqueeze(1),
    )
    reported, t, known = ~torch.isnan(t), t.nan_to_num(1.0), doses.nan_to_num(100.0)
    elapsed = t.unsqueeze(2) - known.unsqueeze(1)
    rate = k.reshape(-1, 1, 1)
    given = torch.where(elapsed >= 0, 10.0 * known.unsqueeze(1) * torch.exp(-rate * elapsed), 0.0)
    exact = torch.exp(-k.unsqueeze(1) * (t - t[:, :1])) + given.sum(dim=2)
    torch.testing.assert_close(solution.y[..., 0][reported], exact[reported], rtol=1e-7, atol=1e-9)
    assert torch.isnan(solution.y[1, 3]).all()
    # when a dose is given matters too
    found, wanted = (torch.autograd.grad(y[0, 3] + y[1, 2], doses)[0] for y in (solution.y[..., 0], exact))
    torch.testing.assert_close(found, wanted, rtol=1e-6, atol=1e-9)


def test_doses_together_with_events():
    # each dose adds 1; at a level of 1.5 half is taken away, at once or on the way up an infusion
    infusion = torch.tensor([0.1, 0.4], dtype=F64, requires_grad=True)
    limit = Event(lambda t, y: y[:, 0] - 1.5, direction=1, jump=lambda t, y: 0.5 * y)
    t = torch.linspace(0, 4, 9, dtype=F64)
    solution = solve_ode(
        lambda t, y: infusion.unsqueeze(1) + 0 * y,
        torch.zeros(2, 1, dtype=F64),
        t,
        stepping="per_sample",
        events=limit,
        jump_times=[1.0, 3.0],
        jump=lambda t, y: y + 1.0,
    )
    slow = infusion[0] * t + (t >= 1.0)
    assert solution.events.count.tolist() == [0, 1]
    torch.testing.assert_close(solution.y[0, :6, 0], slow[:6], rtol=1e-9, atol=1e-9)
    # sample 1: 1.4 after the first dose, 1.5 at t = 1.25, then 0.75 + 0.4 (t - 1.25); a dose across is no crossing
    torch.testing.assert_close(solution.events.t[1, 0], 0.5 / infusion[1], rtol=1e-9, atol=0)
    level = 0.75 + infusion[1] * (3.0 - 0.5 / infusion[1])
    second = level + 1.0
    assert second > 1.5
    (slope,) = torch.autograd.grad(solution.events.t[1, 0], infusion, retain_graph=True)
    torch.testing.assert_close(slope, torch.tensor([0.0, -0.5 / 0.16], dtype=F64), rtol=1e-9, atol=1e-9)


def test_a_failing_sample_keeps_what_it_reached():
    f = lambda t, y: torch.where(y > 1.5, y**2, 0 * y)  # noqa: E731
    solution = solve_ode(
        f,
        torch.tensor([[1.0], [0.5]], dtype=F64),
        torch.tensor([0.0, 0.5, 1.2, 2.5], dtype=F64),
        stepping="per_sample",
        on_failure="return",
        rtol=1e-9,
        jump_times=[1.0, 2.0],
        jump=lambda t, y: y + 0.7,
    )
    assert [s.success for s in solution.status] == [False, True]
    torch.testing.assert_close(
        solution.y[1, :, 0], torch.tensor([0.5, 0.5, 1.2, 1 / (1 / 1.9 - 0.5)], dtype=F64), rtol=1e-5, atol=0
    )
    torch.testing.assert_close(solution.y[0, 2, 0].item(), 1 / (1 / 1.7 - 0.2), rtol=1e-5, atol=0)
    assert torch.isnan(solution.y[0, 3, 0])


@pytest.mark.parametrize(
    ("options", "error", "words"),
    [
        ({"jump_times": torch.zeros(2, 2)}, ShapeError, r"\(J,\) or \(batch, J\)"),
        ({"jump_times": torch.full((1, 2), 0.5)}, OptionError, "pass stepping='per_sample'"),
        ({"jump_times": [0.5, float("nan")]}, NonFiniteError, "jump_times"),
        ({"jump_times": ["a"]}, ShapeError, "jump_times must be numbers"),
        ({"jump_times": [0.5], "jump": 3.0}, OptionError, "jump must be a function"),
        ({"jump_times": [0.5], "jump": lambda t, y: y[0]}, ShapeError, r"jump returned shape \(1,\)"),
        ({"jump_times": [0.5], "jump": lambda t, y: y / 0}, NonFiniteError, "sample 0 at t=0.5"),
        ({"jump_times": [0.5], "backend": "scipy", "method": "RK45"}, OptionError, "backend='native'"),
    ],
)
def test_wrong_jumps_are_refused_with_a_sentence(options, error, words):
    with pytest.raises(error, match=words):
        solve_ode(lambda t, y: -y, torch.ones(1, 1, dtype=F64), [0.0, 1.0], **options)
