"""Difficulty of stochastic steps against closed forms and against steps written by hand under autograd."""

import pytest
import torch

from scidyn.errors import OptionError
from scidyn.solvers import BrownianIncrements, BrownianTree, LocalError, Stiffness, solve_sde

F64 = torch.float64
SPAN, TOLERANCE = [0.0, 0.4, 1.0], {"rtol": 1e-2, "atol": 1e-3}
PENALTY = {"error": LocalError(aggregate="sum"), "stiffness": Stiffness(aggregate="sum")}


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
        f,
        g,
        y0,
        SPAN,
        noise="additive",
        method="sra1",
        bm=path,
        regularize=PENALTY[kind],
        adjoint=adjoint,
        rtol=1e-2,
        atol=1e-3,
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
    reg = solution.reg
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
        regularize=Stiffness(aggregate="sum"),
    ).reg
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
            regularize=Stiffness(aggregate="sum"),
            adjoint=adjoint,
        )
        value = solution.reg.value
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
            regularize=PENALTY[kind],
            adjoint=adjoint,
        )
        reg = solution.reg
        if kind == "error":
            assert reg.error.nan_to_num(nan=0.0).max() <= 1.0 + 1e-9
            assert reg.error.nan_to_num(nan=0.0).max() > 0.05
        assert reg.h.nansum(1).tolist() == pytest.approx([1.0] * 3)
        found.append((reg.value.detach(), *torch.autograd.grad(reg.value + solution.y.sum(), [w, y0])))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-9, atol=1e-11)


@pytest.mark.parametrize("adjoint", ["discrete", "direct", None])
@pytest.mark.parametrize("when", ["accepted", "uniform"])
def test_a_local_penalty_is_one_of_the_steps_from_a_state_without_gradient(adjoint, when):
    w, y0, f, g = problem()
    options = {"noise": "additive", "method": "shark", "dt": 0.1, "seed": 0, "rtol": 1e-2, "atol": 1e-2}
    every = solve_sde(f, g, y0, SPAN, regularize=LocalError(), **options).reg
    products = every.error_h.mean(0)
    solution = solve_sde(f, g, y0, SPAN, adjoint=adjoint, **options)
    seen = set()
    for seed in (0, 0, 1, 2, 3):
        value = solution.local_regulariser("error", when, generator=torch.Generator().manual_seed(seed))
        gap = (products - value).abs()
        assert gap.min() < 1e-12
        slopes = torch.autograd.grad(value, [w, y0], allow_unused=True)
        assert slopes[0].isfinite().all()
        assert slopes[0].abs().sum() > 0
        assert slopes[1] is None
        seen.add(gap.argmin().item())
    assert len(seen) > 1


def test_a_local_penalty_goes_with_every_kind_of_steps():
    generator = torch.Generator().manual_seed(0)
    rate = torch.tensor(3.0, dtype=F64, requires_grad=True)

    def solve(**options):
        return solve_sde(
            lambda t, y: -rate * y, lambda t, y: 0.2 * y, torch.ones(3, 1, dtype=F64), [0.0, 1.0], seed=0, **options
        )

    for options in (
        {"dt": 0.1},
        {"adaptive": True, "method": "sriw1"},
        {"adaptive": True, "method": "sriw1", "stepping": "per_sample"},
        {"dt": 0.1, "calculus": "stratonovich", "method": "reversible_heun", "adjoint": "reversible"},
    ):
        value = solve(**options).local_regulariser("stiffness", generator=generator)
        (slope,) = torch.autograd.grad(value, rate)
        assert value.item() == pytest.approx(3.0)  # |λ| of the drift, whatever the step
        assert slope.item() == pytest.approx(1.0)
    with pytest.raises(OptionError, match="accepted"):
        solve(dt=0.1).local_regulariser(step="initial", generator=generator)
    with pytest.raises(OptionError, match="error estimate"):
        solve(dt=0.1).local_regulariser(generator=generator)


def test_a_penalty_on_stiffness_makes_a_drift_less_stiff():
    rate = torch.tensor(30.0, dtype=F64, requires_grad=True)
    reg = solve_sde(
        lambda t, y: -rate * y,
        lambda t, y: 0.1 * y,
        torch.ones(4, 1, dtype=F64),
        [0.0, 0.1],
        dt=0.01,
        seed=0,
        regularize=Stiffness(aggregate="sum"),
    ).reg
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
        regularize=Stiffness(aggregate="sum"),
        on_failure="return",
    )
    assert solution.reg.value.isfinite()
    assert solution.reg.stiffness[1].isnan().all()
    assert solution.reg.stiffness[0].isfinite().all()


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"regularize": LocalError(), "method": "euler"}, "error estimate"),
        ({"regularize": LocalError() + Stiffness(), "method": "milstein"}, "error estimate"),
        ({"regularize": "error"}, "LocalError"),
        ({"regularize": Stiffness(), "backend": "torchsde"}, "native"),
    ],
)
def test_what_cannot_be_measured_is_refused(options, words):
    with pytest.raises(OptionError, match=words):
        solve_sde(lambda t, y: -y, lambda t, y: 0.1 * y, torch.ones(1, 1), [0.0, 1.0], dt=0.1, seed=0, **options)
