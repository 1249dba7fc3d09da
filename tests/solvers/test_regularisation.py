"""Difficulty of steps against closed forms and against autograd through steps written by hand."""

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import LocalError, Stiffness, solve_ode
from scidyn.solvers.methods import METHODS

F64 = torch.float64
PENALTIES = {"error": LocalError(aggregate="sum"), "stiffness": Stiffness(aggregate="sum")}
TABLEAU = METHODS["tsit5"].tableau


def step(f, t, h, y):
    """One Tsit5 step from its tableau: end, error, stages and their rates."""
    states, rates = [], []
    for node, row in zip(TABLEAU.c, TABLEAU.a, strict=True):
        states.append(y + h * sum((w * k for w, k in zip(row, rates, strict=True)), torch.zeros_like(y)))
        rates.append(f(t + node * h, states[-1]))
    return states[-1], h * sum(e * k for e, k in zip(TABLEAU.error, rates, strict=True)), states, rates


@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
@pytest.mark.parametrize("kind", ["error", "stiffness"])
def test_global_sum_is_that_of_steps_by_hand(kind, adjoint):
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(2, 2, dtype=F64, generator=generator).requires_grad_()
    y0 = torch.randn(3, 2, dtype=F64, generator=generator).requires_grad_()

    def f(t, y):
        return torch.tanh(y @ w) - torch.sin(t) * y

    solution = solve_ode(f, y0, [0.0, 0.8, 2.0], regularize=PENALTIES[kind], adjoint=adjoint, rtol=1e-5, atol=1e-6)
    found = solution.reg
    y, total = y0, 0.0
    for t, h in zip(found.t[0], found.h[0], strict=True):
        y1, err, states, rates = step(f, t, h, y)
        if kind == "error":
            allowed = 1e-6 + 1e-5 * torch.maximum(y.abs(), y1.abs())
            total = total + h * ((err / allowed) ** 2).mean(dim=1).sqrt()
        else:
            total = total + (rates[-1] - rates[-2]).norm(dim=1) / (states[-1] - states[-2]).norm(dim=1)
        y = y1
    torch.testing.assert_close(found.value, total.mean(), rtol=1e-9, atol=1e-12)
    got = torch.autograd.grad(found.value + solution.y.sum(), [w, y0])
    plain = solve_ode(f, y0, [0.0, 0.8, 2.0], adjoint="direct", rtol=1e-5, atol=1e-6).y.sum()
    for a, b in zip(got, torch.autograd.grad(total.mean() + plain, [w, y0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)


def test_stiffness_of_a_linear_field_is_its_largest_eigenvalue():
    eigenvalues = torch.tensor([1.0, 30.0], dtype=F64)
    reg = solve_ode(
        lambda t, y: -eigenvalues * y,
        torch.ones(1, 2, dtype=F64),
        [0.0, 0.05],
        dt0=0.05,
        stepping="fixed",
        regularize=Stiffness(),
    ).reg
    assert abs(reg.stiffness[0, 0].item() - 30.0) < 0.01


def seeded(seed):
    return torch.Generator().manual_seed(seed)


@pytest.mark.parametrize("when", ["accepted", "uniform"])
@pytest.mark.parametrize("adjoint", ["discrete", "direct", "reversible", "backsolve", "interpolating", None])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_local_error_is_one_step_with_its_closed_form(adjoint, stepping, when):
    """For y' = λy the error of a step is |P5(λh) − P4(λh)| |y|, and the mean over draws shows all steps."""
    rate = torch.tensor(-1.5, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    solution = solve_ode(
        lambda t, y: rate * y, y0, [0.0, 2.0], stepping=stepping, adjoint=adjoint, rtol=1e-6, atol=1e-6, dense=True
    )
    again = solve_ode(
        lambda t, y: rate * y, y0, [0.0, 2.0], stepping=stepping, rtol=1e-6, atol=1e-6, regularize=LocalError()
    ).reg
    draws = [solution.local_regulariser("error", when, generator=seeded(seed)) for seed in range(8)]
    assert torch.equal(draws[0], solution.local_regulariser("error", when, generator=seeded(0)))
    assert len({round(d.item(), 12) for d in draws}) > 1
    low = torch.where(again.h > 0, again.error_h, torch.inf).amin(dim=1).mean()
    assert low.item() * 0.5 < min(d.item() for d in draws)
    assert max(d.item() for d in draws) < again.error_h.nan_to_num().amax(dim=1).mean().item() * 2
    (got,) = torch.autograd.grad(draws[0], rate)
    shift = 1e-5
    with torch.no_grad():  # the grid and the state at the start are constants: move the rate in the step only
        moved = []
        for sign in (1.0, -1.0):
            rate += sign * shift
            moved.append(solution.local_regulariser("error", when, generator=seeded(0)).item())
            rate -= sign * shift
    if adjoint in ("discrete", "interpolating") and when == "accepted":  # states are kept, nothing else moves
        torch.testing.assert_close(got.item(), (moved[0] - moved[1]) / (2 * shift), rtol=1e-5, atol=0)
    assert got.item() < 0  # a faster decay is harder


def test_a_uniform_time_takes_the_step_around_it_and_stays_in_the_span():
    seen = []

    def f(t, y):
        seen.append(t.item())
        return -y

    solution = solve_ode(f, torch.ones(1, 1, dtype=F64), [1.0, 3.0], dt0=0.5, stepping="fixed")
    seen.clear()
    for seed in range(40):
        solution.local_regulariser("error", "uniform", generator=seeded(seed))
    assert 1.0 <= min(seen) < 1.2
    assert max(seen) <= 3.0 + 1e-12
    short = solution.local_regulariser("error", step="initial", generator=seeded(0))
    assert 0 < short.item() < solution.local_regulariser("error", generator=seeded(0)).item()


def test_running_statistics_are_left_alone():
    norm = torch.nn.BatchNorm1d(2, dtype=F64)
    solution = solve_ode(lambda t, y: -norm(y), torch.randn(8, 2, dtype=F64, generator=seeded(1)), [0.0, 1.0])
    before = {name: value.clone() for name, value in norm.state_dict().items()}
    penalty = solution.local_regulariser(generator=seeded(0))
    assert all(torch.equal(value, before[name]) for name, value in norm.state_dict().items())
    assert norm.momentum == 0.1
    penalty.backward()
    assert torch.isfinite(norm.weight.grad).all()


def test_penalties_add_up_and_skip_padded_steps():
    y0 = torch.tensor([[1.0], [40.0]], dtype=F64)
    options = {"stepping": "per_sample", "rtol": 1e-6, "atol": 1e-6}

    def reg(penalty):
        return solve_ode(lambda t, y: -y * y, y0, [0.0, 1.0], regularize=penalty, **options).reg

    both = reg(LocalError(2.0) + 0.5 * Stiffness(aggregate="max"))
    assert torch.isnan(both.error[0, -1])
    error, stiff = both.error_h, both.stiffness
    want = 2.0 * error.nanmean(dim=1).mean() + 0.5 * stiff.nan_to_num(nan=-1.0).amax(dim=1).mean()
    torch.testing.assert_close(both.value, want)
    squared = reg(LocalError(aggregate="sum", squared=True))
    torch.testing.assert_close(squared.value, squared.error_sq.nansum(dim=1).mean())
    raw = reg(LocalError(unscaled=True))
    torch.testing.assert_close(raw.value, (raw.unscaled_error * raw.h).nanmean(dim=1).mean())
    allowed = 1e-6 * (1.0 + 40.0)  # at the start of the hard sample
    assert 0.5 < (raw.unscaled_error[1, 0] / (raw.error[1, 0] * allowed)).item() < 1.1
    own = reg(lambda measured: measured.stiffness.nanmean() ** 2)
    torch.testing.assert_close(own.value, own.stiffness.nanmean() ** 2)


def test_gradient_is_finite_where_there_is_no_error():
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    reg = solve_ode(lambda t, y: rate + 0 * y, torch.ones(2, 1, dtype=F64), [0.0, 1.0], regularize=LocalError())
    (grad,) = torch.autograd.grad(reg.reg.value, rate)
    assert torch.isfinite(grad)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"regularize": LocalError(), "method": "rk4"}, "error estimate.*tsit5"),
        ({"regularize": LocalError(), "adjoint": "backsolve"}, "local_regulariser"),
        ({"regularize": Stiffness(), "method": "bosh3"}, "two stages.*tsit5"),
        ({"regularize": "error"}, "LocalError"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], **options)


def test_a_random_step_needs_a_grid_and_a_generator():
    solution = solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], method="dopri5", backend="torchdiffeq")
    with pytest.raises(OptionError, match="backend='native'"):
        solution.local_regulariser(generator=seeded(0))
    solution = solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0])
    with pytest.raises(OptionError, match="generator"):
        solution.local_regulariser(generator=0)
    with pytest.raises(OptionError, match="when"):
        solution.local_regulariser(when="always", generator=seeded(0))
    with pytest.raises(OptionError, match="aggregate"):
        LocalError(aggregate="median")
