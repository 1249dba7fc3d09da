"""Difficulty of stochastic steps against closed forms and against steps written by hand under autograd."""

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import BrownianIncrements, BrownianTree, solve_sde

F64 = torch.float64
SPAN = [0.0, 0.4, 1.0]


def problem(**options):
    generator = torch.Generator().manual_seed(2)
    w = torch.randn(2, 2, dtype=F64, generator=generator).requires_grad_()
    y0 = torch.randn(3, 2, dtype=F64, generator=generator).requires_grad_()

    def f(t, y):
        return torch.tanh(y @ w) - torch.sin(t).reshape(-1, 1) * y

    def g(t, y):
        return torch.full_like(y, 0.3)

    return w, y0, f, g


@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
@pytest.mark.parametrize("kind", ["error", "stiffness"])
def test_sum_over_the_steps_is_that_of_steps_by_hand(kind, adjoint):
    w, y0, f, g = problem()
    path = BrownianIncrements(torch.linspace(0, 1, 11, dtype=F64), (3, 2), seed=0, levels="WH", dtype=F64)
    solution = solve_sde(
        f, g, y0, SPAN, noise="additive", method="sra1", bm=path, regularize=kind, adjoint=adjoint, rtol=1e-2, atol=1e-3
    )
    y, total, noise, h = y0, 0.0, path.block(0, 10), 0.1
    for n in range(10):
        t = torch.tensor(n * h, dtype=F64)
        W, H = noise.W[n], noise.H[n]
        k1 = f(t, y)
        k2 = f(t + 0.75 * h, y + 0.75 * h * k1 + 0.3 * (0.75 * W + 1.5 * H))
        y1 = y + h * (k1 + 2 * k2) / 3 + 0.3 * W
        if kind == "error":
            allowed = 1e-3 + 1e-2 * torch.maximum(y.abs(), y1.abs())
            total = total + h * ((2 * h / 3 * (k2 - k1) / allowed) ** 2).mean(1).sqrt()
        else:
            k3 = f(t + h, y1)
            d = h / 2 * (k3 - k1)
            total = total + (f(t + h, y1 + d) - k3).norm(dim=1) / d.norm(dim=1)
        y = y1
    reg = solution.regularization
    torch.testing.assert_close(solution.y[:, -1], y, rtol=1e-10, atol=1e-12)
    torch.testing.assert_close(reg.value, total.mean(), rtol=1e-9, atol=0)
    assert reg.h.shape == reg.error.shape == (3, 10)
    got = torch.autograd.grad(reg.value + (solution.y[:, -1] ** 2).sum(), [w, y0])
    for a, b in zip(got, torch.autograd.grad(total.mean() + (y**2).sum(), [w, y0]), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("method", ["euler", "milstein", "sriw1", "platen"])
def test_stiffness_of_a_linear_drift_is_its_largest_eigenvalue(method):
    # the correction of the trapezoidal rule lies along (λ² y), so that the fast mode dominates it
    rates = torch.tensor([1.0, 60.0], dtype=F64)
    reg = solve_sde(
        lambda t, y: -rates * y,
        lambda t, y: 0.1 * y,
        torch.ones(4, 2, dtype=F64),
        [0.0, 0.01],
        method=method,
        dt=0.01,
        seed=0,
        regularize="stiffness",
    ).regularization
    torch.testing.assert_close(reg.stiffness, torch.full((4, 1), 60.0, dtype=F64), rtol=1e-3, atol=0)


def test_stiffness_along_the_undone_steps_of_the_reversible_method():
    found = []
    for adjoint in ("direct", "reversible", "discrete"):
        w, y0, f, _g = problem()
        solution = solve_sde(
            f,
            lambda t, y: 0.3 * torch.cos(y),
            y0,
            SPAN,
            calculus="stratonovich",
            method="reversible_heun",
            dt=0.05,
            seed=0,
            regularize="stiffness",
            adjoint=adjoint,
        )
        value = solution.regularization.value
        found.append((value.detach(), *torch.autograd.grad(value + solution.y.sum(), [w, y0])))
    for other in found[1:]:
        for a, b in zip(found[0], other, strict=True):
            torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("stepping", ["shared", "per_sample"])
@pytest.mark.parametrize("kind", ["error", "stiffness"])
def test_adaptive_steps_are_accepted_at_an_error_of_one_or_less(stepping, kind):
    found = []
    for adjoint in ("discrete", "direct"):
        w, y0, f, g = problem()
        tree = BrownianTree(0.0, 1.0, (3, 2), seed=1, tol=5e-4, dtype=F64)
        solution = solve_sde(
            f,
            g,
            y0,
            SPAN,
            noise="additive",
            method="shark",
            bm=tree,
            adaptive=True,
            stepping=stepping,
            rtol=1e-2,
            atol=1e-2,
            dt_min=1e-3,
            dt=0.5,
            regularize=kind,
            adjoint=adjoint,
        )
        reg = solution.regularization
        if kind == "error":
            assert reg.error.max() <= 1.0 + 1e-9
            assert reg.error.max() > 0.05
        assert reg.h.sum(1).tolist() == pytest.approx([1.0] * 3)
        found.append((reg.value.detach(), *torch.autograd.grad(reg.value + solution.y.sum(), [w, y0])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


def test_a_local_kind_is_one_of_the_steps_and_works_with_any_gradient():
    w, y0, f, g = problem()
    options = {"noise": "additive", "method": "shark", "dt": 0.1, "seed": 0, "rtol": 1e-2, "atol": 1e-2}
    every = solve_sde(f, g, y0, SPAN, regularize="error", **options).regularization
    products = (every.error * every.h).mean(0)
    seen = set()
    for seed in (0, 0, 1, 2, 3):
        reg = solve_sde(f, g, y0, SPAN, regularize="local_error", regularize_seed=seed, **options).regularization
        assert (products - reg.value).abs().min() < 1e-12
        (slope,) = torch.autograd.grad(reg.value, w)
        assert slope.isfinite().all()
        assert slope.abs().sum() > 0
        seen.add(round(reg.t[0, 0].item(), 6))
    assert len(seen) > 1


def test_a_penalty_on_stiffness_makes_a_drift_less_stiff():
    rate = torch.tensor(30.0, dtype=F64, requires_grad=True)
    reg = solve_sde(
        lambda t, y: -rate * y,
        lambda t, y: 0.1 * y,
        torch.ones(4, 1, dtype=F64),
        [0.0, 0.1],
        dt=0.01,
        seed=0,
        regularize="stiffness",
    ).regularization
    (slope,) = torch.autograd.grad(reg.value, rate)
    assert slope.item() == pytest.approx(10.0)  # d/dλ of ten steps of |λ|


def test_failed_rows_count_as_zero():
    solution = solve_sde(
        lambda t, y: y**3,
        lambda t, y: 0.0 * y,
        torch.tensor([[0.1], [50.0]], dtype=F64),
        [0.0, 0.5, 1.0],
        dt=0.05,
        seed=0,
        regularize="stiffness",
        on_failure="return",
    )
    assert solution.regularization.value.isfinite()
    assert solution.regularization.stiffness[1, -1] == 0.0


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regularize": "error", "method": "euler"}, "error estimate"),
        ({"regularize": "eror"}, "regularize"),
        ({"regularize": "stiffness", "backend": "torchsde"}, "native"),
        ({"regularize": "stiffness", "regularize_seed": -1}, "regularize_seed"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, words):
    with pytest.raises(OptionError, match=words):
        solve_sde(lambda t, y: -y, lambda t, y: 0.1 * y, torch.ones(1, 1), [0.0, 1.0], dt=0.1, seed=0, **options)
