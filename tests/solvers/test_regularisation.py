"""Difficulty of steps against closed forms and against autograd through steps written by hand."""

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import solve_ode
from scidyn.solvers.methods import METHODS

F64 = torch.float64
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

    solution = solve_ode(f, y0, [0.0, 0.8, 2.0], regularize=kind, adjoint=adjoint, rtol=1e-5, atol=1e-6)
    found = solution.regularization
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
        regularize="stiffness",
    ).regularization
    assert abs(reg.stiffness[0, 0].item() - 30.0) < 0.01


@pytest.mark.parametrize("adjoint", ["discrete", "reversible", "backsolve", "interpolating"])
@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
def test_local_error_is_one_step_with_its_closed_form(adjoint, stepping):
    rate = torch.tensor(-1.5, dtype=F64, requires_grad=True)
    y0 = torch.tensor([[1.0], [2.0]], dtype=F64)
    found, options = [], {"stepping": stepping, "adjoint": adjoint, "rtol": 1e-6, "atol": 1e-6}
    for seed in (0, 0, 1, 2, 3):
        solution = solve_ode(
            lambda t, y: rate * y, y0, [0.0, 2.0], regularize="local_error", regularize_seed=seed, **options
        )
        found.append(solution.regularization)
    assert torch.equal(found[0].value, found[1].value)
    assert len({round(r.t[0, 0].item(), 9) for r in found}) > 1
    reg = found[0]
    assert reg.h.shape == (2, 1)
    (got,) = torch.autograd.grad(reg.value, rate)
    # the state at the start of the step is a constant; for a linear field the step only scales it
    y = (y0[:, 0] * torch.exp(-1.5 * reg.t[:, 0])).unsqueeze(1)
    y1, err, *_ = step(lambda t, y: rate * y, 0.0, reg.h, y)
    want = (reg.h * err.abs() / (1e-6 + 1e-6 * torch.maximum(y, y1))).mean()
    torch.testing.assert_close(reg.value, want, rtol=1e-4, atol=0)
    torch.testing.assert_close(got, torch.autograd.grad(want, rate)[0], rtol=1e-4, atol=0)


def test_gradient_is_finite_where_there_is_no_error():
    rate = torch.tensor(1.0, dtype=F64, requires_grad=True)
    reg = solve_ode(lambda t, y: rate + 0 * y, torch.ones(2, 1, dtype=F64), [0.0, 1.0], regularize="error")
    (grad,) = torch.autograd.grad(reg.regularization.value, rate)
    assert torch.isfinite(grad)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        ({"regularize": "error", "method": "rk4"}, "error estimate"),
        ({"regularize": "error", "adjoint": "backsolve"}, "local_error"),
        ({"regularize": "stiffness", "method": "bosh3"}, "two stages"),
        ({"regularize": "eror"}, "regularize"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, sentence):
    with pytest.raises(OptionError, match=sentence):
        solve_ode(lambda t, y: -y, torch.ones(1, 1), [0.0, 1.0], **options)
