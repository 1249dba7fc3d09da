"""Equations driven by fractional noise: laws against quadrature, closed forms path by path, gradient in H."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate

from scidyn.errors import OptionError, TimeGridError
from scidyn.solvers import BrownianIncrements, BrownianTree, FractionalIncrements, MarkovFBM, solve_sde
from scidyn.solvers.brownian.fractional_path import step_law

F64 = torch.float64


def zero(t, y):
    return torch.zeros_like(y)


def one(t, y):
    return torch.ones_like(y)


@pytest.mark.parametrize("x", [1e-6, 0.05, 0.0999, 0.1001, 3.0, 400.0])
def test_law_of_a_step_against_quadrature(x):
    h = 0.4
    rates = torch.tensor([x / h, 2.5 * x / h], dtype=F64)
    decay, gain, root = step_law(rates, h)
    s, w = np.polynomial.legendre.leggauss(200)
    s, w = h * (s + 1) / 2, w * h / 2

    def kernel(k):
        return np.exp(-rates[k].item() * (h - s))

    bridge = 0.5 - s / h  # kernel of H, whose variance is h / 12
    for k in range(2):
        assert decay[k].item() == pytest.approx(math.exp(-rates[k].item() * h))
        assert gain[k, 0].item() == pytest.approx(float((w * kernel(k)).sum() / h), rel=1e-9)
        assert gain[k, 1].item() == pytest.approx(float((w * kernel(k) * bridge).sum() * 12 / h), rel=1e-6, abs=1e-9)
    left = root @ root.T
    for i in range(2):
        for j in range(2):
            whole = float((w * kernel(i) * kernel(j)).sum())
            known = h * (gain[i, 0] * gain[j, 0] + gain[i, 1] * gain[j, 1] / 12).item()
            assert left[i, j].item() == pytest.approx(whole - known, abs=2e-12)


@pytest.mark.parametrize(("kind", "hurst"), [("I", 0.3), ("II", 0.3), ("I", 0.7), ("II", 0.7)])
def test_driven_state_has_the_covariance_of_fractional_motion(kind, hurst):
    rows = 20_000
    law = MarkovFBM(hurst, 1.0, 8, kind=kind, gamma_range=(1e-3, 1e3))
    times = torch.tensor([0.0, 0.2, 0.5, 1.0], dtype=F64)
    y0 = torch.zeros(rows, 1, dtype=F64)
    # two or three steps between reported times: the law does not depend on how many
    y = solve_sde(zero, one, y0, times, noise="additive", method="euler", bm=law, dt=0.2, seed=0, adjoint=None).y
    sampled, t = torch.cov(y[:, 1:, 0].T), times[1:]
    if kind == "I":
        exact = 0.5 * (t.unsqueeze(1) ** (2 * hurst) + t ** (2 * hurst) - (t.unsqueeze(1) - t).abs() ** (2 * hurst))
    else:

        def entry(s, r):
            s, r = min(s, r), max(s, r)
            a = hurst - 0.5
            if s == r:
                return s ** (2 * hurst)
            return 2 * hurst * integrate.quad(lambda u: (r - s + u) ** a, 0, s, weight="alg", wvar=(a, 0))[0]

        exact = torch.tensor([[entry(s, r) for r in t.tolist()] for s in t.tolist()], dtype=F64)
    found = law.covariance(t.unsqueeze(1), t)
    spread = torch.sqrt((found.diagonal().unsqueeze(1) * found.diagonal() + found**2) / rows)
    assert ((sampled - found).abs() < 4 * spread).all()
    assert ((sampled - exact).abs() < 4 * spread + 0.03).all()


def test_a_hurst_index_of_one_half_is_brownian_motion():
    law = MarkovFBM(0.5, 1.0, 8)
    grid = torch.linspace(0, 1, 201, dtype=F64)
    fractional = FractionalIncrements(law, grid, (200, 2), seed=4, dtype=F64).path()
    brownian = BrownianIncrements(grid, (200, 2), seed=4, levels="WH", dtype=F64).path()
    assert (fractional - brownian).square().mean().sqrt().item() < 1e-2
    options = {"noise": "diagonal", "calculus": "stratonovich", "method": "heun", "adjoint": None}
    start = torch.ones(200, 2, dtype=F64)
    ours, plain = (
        solve_sde(lambda t, y: -y, lambda t, y: 0.5 * torch.sin(y), start, [0.0, 1.0], bm=bm, **options).y
        for bm in (
            FractionalIncrements(law, grid, (200, 2), seed=4, dtype=F64),
            BrownianIncrements(grid, (200, 2), seed=4, levels="WH", dtype=F64),
        )
    )
    assert (ours - plain).square().mean().sqrt().item() < 5e-3
    assert plain[:, -1].std() > 0.1


@pytest.mark.parametrize(("hurst", "order"), [(0.5, 1.0), (0.7, 1.0)])
def test_geometric_fractional_motion_path_by_path(hurst, order):
    # dX = σ X ∘ dB̂ has the solution exp(σ B̂)
    errors = []
    for n in (32, 64, 128):
        law = MarkovFBM(hurst, 1.0, 6, gamma_range=(1e-2, 20.0))
        path = FractionalIncrements(law, torch.linspace(0, 1, n + 1, dtype=F64), (500, 1), seed=1, dtype=F64)
        y = solve_sde(
            zero,
            lambda t, y: 0.5 * y,
            torch.ones(500, 1, dtype=F64),
            [0.0, 1.0],
            calculus="stratonovich",
            method="heun",
            bm=path,
            adjoint=None,
        ).y[:, -1]
        errors.append((y - torch.exp(0.5 * path.path()[-1])).square().mean().sqrt().item())
    slope = -np.polyfit(np.log([32, 64, 128]), np.log(errors), 1)[0]
    assert slope > order - 0.15


@pytest.mark.parametrize("method", ["milstein", "sriw1"])
def test_the_ito_solution_differs_by_the_variance_of_the_brownian_part(method):
    # dX = σ X dB̂ in Itô's sense of the W in it: exp(σ B̂ - σ² ω̄² t / 2)
    law = MarkovFBM(0.6, 1.0, 4, gamma_range=(0.1, 10.0))
    path = FractionalIncrements(law, torch.linspace(0, 1, 257, dtype=F64), (300, 1), seed=1, levels="WH", dtype=F64)
    y = solve_sde(
        zero, lambda t, y: 0.5 * y, torch.ones(300, 1, dtype=F64), [0.0, 1.0], method=method, bm=path, adjoint=None
    ).y[:, -1]
    exact = torch.exp(0.5 * path.path()[-1] - 0.125 * law.omega.sum() ** 2)
    assert ((y / exact - 1).square().mean().sqrt()).item() < 4e-3


def test_fractional_ornstein_uhlenbeck_variance_against_quadrature():
    # X_t = B_t - θ ∫ e^{-θ (t - s)} B_s ds, so Var X_t is an integral of the covariance of B̂
    theta, rows = 1.5, 20_000
    law = MarkovFBM(0.3, 1.0, 8)
    y = solve_sde(
        lambda t, y: -theta * y,
        one,
        torch.zeros(rows, 1, dtype=F64),
        [0.0, 1.0],
        noise="additive",
        method="shark",
        bm=law,
        dt=0.01,
        seed=2,
        adjoint=None,
    ).y[:, -1, 0]
    s, w = np.polynomial.legendre.leggauss(60)
    s, w = torch.tensor((s + 1) / 2), torch.tensor(w / 2)
    weight = w * theta * torch.exp(-theta * (1 - s))
    cross = law.covariance(s, 1.0)
    exact = law.covariance(1.0, 1.0) - 2 * (weight * cross).sum()
    exact = exact + weight @ law.covariance(s.unsqueeze(1), s) @ weight
    assert y.var().item() == pytest.approx(exact.item(), rel=4 * math.sqrt(2 / rows))


@pytest.mark.parametrize("kind", ["I", "II"])
@pytest.mark.parametrize("adjoint", ["discrete", "direct"])
def test_gradient_in_the_hurst_index_is_that_of_finite_differences(kind, adjoint):
    def loss(hurst, rate):
        y = solve_sde(
            lambda t, y: -rate * y,
            lambda t, y: 0.4 + 0.2 * torch.sin(y),
            torch.ones(20, 2, dtype=F64),
            [0.0, 0.4, 1.0],
            calculus="stratonovich",
            method="midpoint",
            bm=MarkovFBM(hurst, 1.0, 5, kind=kind),
            dt=0.02,
            seed=0,
            adjoint=adjoint,
        ).y
        return (y**2).sum()

    hurst, rate = (torch.tensor(v, dtype=F64, requires_grad=True) for v in (0.35, 0.8))
    found = torch.autograd.grad(loss(hurst, rate), [hurst, rate])
    step = 1e-5
    for got, (a, b) in zip(found, ((step, 0.0), (0.0, step)), strict=True):
        ahead, behind = (loss(*(torch.tensor(v + s * d, dtype=F64) for v, d in ((0.35, a), (0.8, b)))) for s in (1, -1))
        assert got.item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-5)


def test_blocks_can_be_drawn_again_in_any_order():
    def make():
        grid = torch.linspace(0, 1, 201, dtype=F64)
        return FractionalIncrements(MarkovFBM(0.4, 1.0), grid, (3, 2), seed=1, levels="WH", dtype=F64)

    whole, late = make().block(0, 200), make()
    for a, b in ((150, 170), (10, 80), (190, 200)):
        part = late.block(a, b)
        assert torch.equal(part.W, whole.W[a:b])
        assert torch.equal(part.H, whole.H[a:b])


def test_general_noise_takes_one_fractional_motion_for_each_channel():
    law = MarkovFBM(0.7, 1.0, 6)
    path = FractionalIncrements(law, torch.linspace(0, 1, 11, dtype=F64), (50, 2), seed=1, dtype=F64)
    mixing = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]], dtype=F64)
    y = solve_sde(
        lambda t, y: torch.zeros_like(y),
        lambda t, y: mixing.expand(len(y), 3, 2),
        torch.zeros(50, 3, dtype=F64),
        [0.0, 1.0],
        noise="general",
        method="euler",
        bm=path,
        adjoint=None,
    ).y[:, -1]
    torch.testing.assert_close(y, path.path()[-1] @ mixing.T, rtol=1e-10, atol=1e-12)


@pytest.mark.parametrize(
    ("options", "kind", "words"),
    [
        ({"adaptive": True, "method": "milstein"}, OptionError, "known grid"),
        ({"prior_drift": zero}, OptionError, "memory"),
        ({"backend": "torchsde", "method": "euler"}, OptionError, "torchsde"),
        ({"t": [0.0, 3.0]}, TimeGridError, "horizon"),
        ({"calculus": "stratonovich", "method": "reversible_heun"}, OptionError, "carries"),
        ({"dt": None}, OptionError, "needs dt"),
        ({"bm": BrownianTree}, OptionError, "bm must be"),
    ],
)
def test_what_fractional_noise_cannot_do_is_refused(options, kind, words):
    given = {"t": [0.0, 1.0], "dt": 0.1, "seed": 0, "bm": MarkovFBM(0.4, 1.0)} | options
    with pytest.raises(kind, match=words):
        solve_sde(zero, one, torch.ones(2, 1, dtype=F64), given.pop("t"), **given)
