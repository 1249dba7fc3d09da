"""Strong and weak orders against closed forms and fine solutions on the same Brownian path."""

import math

import numpy as np
import pytest
import torch

from scidyn.solvers import BrownianIncrements, Noise, solve_sde
from scidyn.solvers.sde.methods import SDE_METHODS

F64 = torch.float64
MU, SIGMA = 0.5, 0.5
FINE = 1024


class Given:
    """One step with chosen noise."""

    levels = "WH"

    def __init__(self, grid, W, H):
        self.grid, self.W, self.H, self.shape = grid, W, H, W.shape

    def block(self, start, stop):
        return Noise(self.W.unsqueeze(0), self.H.unsqueeze(0))


def still(t, y):
    return torch.zeros_like(y)


def slope(steps, errors):
    return -np.polyfit(np.log(steps), np.log(errors), 1)[0]


def rms(x):
    return x.square().mean().sqrt().item()


def strong_order(drift, diffusion, y0, exact, method, noise, calculus, steps, channels=None, seed=1):
    shape = (y0.shape[0], channels or y0.shape[1])
    path = BrownianIncrements(torch.linspace(0, 1, FINE + 1, dtype=F64), shape, seed=seed, levels="WH", dtype=F64)
    target = exact(path)
    kind = {"noise": noise, "calculus": calculus, "method": method, "adjoint": None}
    errors = [
        rms(solve_sde(drift, diffusion, y0, [0.0, 1.0], bm=path.coarsen(FINE // n), **kind).y[:, -1] - target)
        for n in steps
    ]
    return slope(steps, errors)


@pytest.mark.parametrize(
    ("method", "calculus", "order"),
    [
        ("euler", "ito", 0.5),
        ("milstein", "ito", 1.0),
        ("milstein_free", "ito", 1.0),
        ("sriw1", "ito", 1.5),
        ("milstein", "stratonovich", 1.0),
        ("milstein_free", "stratonovich", 1.0),
        ("heun", "stratonovich", 1.0),
        ("euler_heun", "stratonovich", 1.0),
        ("midpoint", "stratonovich", 1.0),
        ("spark", "stratonovich", 1.0),
        ("general_shark", "stratonovich", 1.0),
        ("reversible_heun", "stratonovich", 1.0),
    ],
)
@pytest.mark.parametrize("noise", ["diagonal", "scalar"])
def test_strong_order_on_geometric_brownian_motion(method, calculus, order, noise):
    y0 = torch.ones(2000, 1, dtype=F64)
    drift = MU - SIGMA**2 / 2 if calculus == "ito" else MU

    def diffusion(t, y):
        return SIGMA * y if noise == "diagonal" else (SIGMA * y).unsqueeze(-1)

    found = strong_order(
        lambda t, y: MU * y,
        diffusion,
        y0,
        lambda p: torch.exp(drift + SIGMA * p.path()[-1]),
        method,
        noise,
        calculus,
        (16, 32, 64, 128),
    )
    assert found == pytest.approx(order, abs=0.1)


@pytest.mark.parametrize(
    ("method", "order"),
    [
        ("euler", 1.0),
        ("heun", 1.0),
        ("sea", 1.0),
        ("reversible_heun", 1.0),
        ("sra1", 1.5),
        ("shark", 1.5),
        ("general_shark", 1.5),
        ("spark", 1.5),
        ("sriw1", 1.5),
    ],
)
def test_strong_order_with_additive_noise(method, order):
    def drift(t, y):
        return -torch.sin(y)

    def diffusion(t, y):
        return (1.5 + 0.3 * t) * torch.ones_like(y)

    def fine(path):
        return solve_sde(drift, diffusion, y0, [0.0, 1.0], noise="additive", method="shark", bm=path, adjoint=None).y[
            :, -1
        ]

    y0 = torch.ones(500, 2, dtype=F64)
    steps = (16, 32, 64) if order == 1.0 else (64, 128, 256)
    found = strong_order(drift, diffusion, y0, fine, method, "additive", "ito", steps)
    assert found == pytest.approx(order, abs=0.1)


def test_milstein_with_areas_has_strong_order_one_for_noise_that_does_not_commute():
    # dX = dW1, dY = dW2, dZ = X dW2 (Itô) plus a state-dependent term: areas matter
    def drift(t, y):
        return torch.zeros_like(y)

    def diffusion(t, y):
        zero, one = torch.zeros_like(y[:, 0]), torch.ones_like(y[:, 0])
        return torch.stack(
            [
                torch.stack([one, zero], -1),
                torch.stack([zero, torch.cos(y[:, 0])], -1),
                torch.stack([torch.sin(y[:, 1]), y[:, 0]], -1),
            ],
            1,
        )

    y0 = torch.zeros(1000, 3, dtype=F64)
    path = BrownianIncrements(torch.linspace(0, 1, 513, dtype=F64), (1000, 2), seed=0, dtype=F64).with_area()
    kind = {"noise": "general", "adjoint": None, "method": "milstein"}
    target = solve_sde(drift, diffusion, y0, [0.0, 1.0], bm=path, **kind).y[:, -1]
    errors = {m: [] for m in ("euler", "milstein")}
    for m, kept in errors.items():
        for n in (8, 16, 32):
            coarse = path.coarsen(512 // n)
            kept.append(
                rms(solve_sde(drift, diffusion, y0, [0.0, 1.0], bm=coarse, **{**kind, "method": m}).y[:, -1] - target)
            )
    assert slope((8, 16, 32), errors["milstein"]) == pytest.approx(1.0, abs=0.1)
    assert slope((8, 16, 32), errors["euler"]) == pytest.approx(0.5, abs=0.1)


@pytest.mark.parametrize(
    ("method", "order", "steps"),
    [
        ("euler", 1.0, (8, 16, 32)),
        ("milstein", 1.0, (8, 16, 32)),
        ("platen", 2.0, (2, 4, 8)),
        ("sriw1", 2.0, (2, 4, 8)),
    ],
)
def test_weak_order_on_the_moments_of_geometric_brownian_motion(method, order, steps):
    # E[X_1] = exp(1); the exact path as control variate leaves the discretisation error
    mu, sigma, rows = 1.0, 0.3, 200_000
    y0 = torch.ones(rows, 1, dtype=F64)
    errors = []
    for n in steps:
        path = BrownianIncrements(torch.linspace(0, 1, n + 1, dtype=F64), (rows, 1), seed=n, levels="WH", dtype=F64)
        y = solve_sde(lambda t, y: mu * y, lambda t, y: sigma * y, y0, [0.0, 1.0], method=method, bm=path, adjoint=None)
        exact = torch.exp(mu - sigma**2 / 2 + sigma * path.path()[-1])
        errors.append(abs((y.y[:, -1] - exact).mean().item()))
    # slope against h corrected for the next term by extrapolating the last two
    last = math.log2(errors[-2] / errors[-1])
    first = math.log2(errors[-3] / errors[-2])
    assert 2 * last - first == pytest.approx(order, abs=0.1)


WEAK = [
    (name, calculus)
    for name, method in SDE_METHODS.items()
    if "diagonal" in method.about.noise and name != "reversible_heun"  # whose steps are not alike
    for calculus in sorted(method.about.calculus)
]


@pytest.mark.parametrize(("method", "calculus"), WEAK)
def test_weak_order_of_every_method_by_quadrature_over_its_noise(method, calculus):
    # a step of a linear equation multiplies the state; the moments of the factor follow by Gauss–Hermite quadrature
    mu, sigma, steps = 0.7, 0.5, (16, 32, 64)
    nodes, weights = (torch.tensor(x, dtype=F64) for x in np.polynomial.hermite_e.hermegauss(12))
    weights = torch.outer(weights, weights).flatten() / weights.sum() ** 2
    W, H = (x.reshape(-1, 1) for x in torch.meshgrid(nodes, nodes, indexing="ij"))
    factors = []
    for n in steps:
        given = Given([0.0, 1 / n], W / n**0.5, H / (12 * n) ** 0.5)
        y = solve_sde(
            lambda t, y: mu * y,
            lambda t, y: sigma * y,
            torch.ones_like(W),
            [0.0, 1 / n],
            calculus=calculus,
            method=method,
            bm=given,
            adjoint=None,
        ).y[:, -1, 0]
        factors.append(y)
    growth = mu - sigma**2 / 2 if calculus == "ito" else mu
    for power in (1, 2):
        exact = math.exp(power * growth + power**2 * sigma**2 / 2)
        errors = [abs((weights * y**power).sum().item() ** n - exact) for y, n in zip(factors, steps, strict=True)]
        found = 2 * math.log2(errors[1] / errors[2]) - math.log2(errors[0] / errors[1])
        assert found == pytest.approx(SDE_METHODS[method].about.weak, abs=0.1)


@pytest.mark.parametrize(
    "method", ["heun", "euler_heun", "midpoint", "spark", "general_shark", "reversible_heun", "milstein"]
)
def test_strong_order_in_stratonovich_sense_for_noise_that_does_not_commute(method):
    def diffusion(t, y):
        zero, one = torch.zeros_like(y[:, 0]), torch.ones_like(y[:, 0])
        rows = [(one, zero), (zero, torch.cos(y[:, 0])), (torch.sin(y[:, 1]), y[:, 0])]
        return torch.stack([torch.stack(row, -1) for row in rows], 1)

    y0 = torch.zeros(1000, 3, dtype=F64)
    path = BrownianIncrements(torch.linspace(0, 1, 257, dtype=F64), (1000, 2), seed=0, levels="WH", dtype=F64)
    path = path.with_area()
    kind = {"noise": "general", "calculus": "stratonovich", "adjoint": None}
    target = solve_sde(still, diffusion, y0, [0.0, 1.0], bm=path, method="milstein", **kind)
    errors = []
    for n in (8, 16, 32):
        y = solve_sde(still, diffusion, y0, [0.0, 1.0], bm=path.coarsen(256 // n), method=method, **kind)
        errors.append(rms(y.y[:, -1] - target.y[:, -1]))
    assert slope((8, 16, 32), errors) == pytest.approx(1.0 if method == "milstein" else 0.5, abs=0.1)


@pytest.mark.parametrize("method", ["shark", "sra1"])
def test_weak_order_on_the_moments_of_an_ornstein_uhlenbeck_process(method):
    # the step is linear in (y, W, H): its exact mean factor and variance follow from unit inputs
    theta, sigma = 1.0, 0.5

    def variance_error(n):
        h = 1.0 / n
        rows = torch.eye(3, dtype=F64)

        given = Given([0.0, h], rows[:, 1:2], rows[:, 2:3])
        y = solve_sde(
            lambda t, y: -theta * y,
            lambda t, y: sigma * torch.ones_like(y),
            rows[:, :1].clone(),
            [0.0, h],
            noise="additive",
            method=method,
            bm=given,
            adjoint=None,
        ).y[:, -1, 0]
        growth, by_w, by_h = y.tolist()
        var = 0.0
        for _ in range(n):
            var = growth**2 * var + by_w**2 * h + by_h**2 * h / 12
        return abs(var - sigma**2 / (2 * theta) * (1 - math.exp(-2 * theta)))

    errors = [variance_error(n) for n in (16, 32, 64)]
    assert slope((16, 32, 64), errors) == pytest.approx(2.0, abs=0.1)


def test_platen_has_weak_order_two_for_noise_of_several_channels():
    # dX = A X dt + B1 X dW1 + B2 X dW2 with B1, B2 that do not commute: E[X ⊗ X] solves a linear equation, and
    # a step is linear in X, so that its own second moments follow by Gauss–Hermite quadrature over W
    A = torch.tensor([[-0.5, 0.3], [0.1, -0.8]], dtype=F64)
    B = torch.tensor([[[0.0, 0.6], [0.2, 0.1]], [[0.5, 0.0], [0.3, -0.2]]], dtype=F64)
    eye = torch.eye(2, dtype=F64)
    lift = torch.kron(A, eye) + torch.kron(eye, A) + sum(torch.kron(b, b) for b in B)
    target = torch.linalg.matrix_exp(lift)
    nodes, weights = (torch.tensor(x, dtype=F64) for x in np.polynomial.hermite_e.hermegauss(6))
    weights = weights / weights.sum()
    grid = [(i, j, s, r) for i in range(6) for j in range(6) for s in (-1.0, 1.0) for r in (-1.0, 1.0)]
    mass = torch.tensor([weights[i] * weights[j] / 4 for i, j, _, _ in grid], dtype=F64)
    signs = torch.tensor([[s, r] for _, _, s, r in grid], dtype=F64).repeat_interleave(2, 0)

    def error(n):
        w = torch.tensor([[nodes[i], nodes[j]] for i, j, _, _ in grid], dtype=F64) / math.sqrt(n)
        given = Given([0.0, 1.0 / n], w.repeat_interleave(2, 0), signs)
        y = solve_sde(
            lambda t, y: y @ A.T,
            lambda t, y: torch.einsum("kij,bj->bik", B, y),
            eye.repeat(len(grid), 1),
            given.grid,
            noise="general",
            method="platen",
            bm=given,
            adjoint=None,
        ).y[:, -1]
        M = y.view(len(grid), 2, 2).transpose(1, 2)
        moments = torch.einsum("q,qij,qkl->ikjl", mass, M, M).reshape(4, 4)
        return (torch.linalg.matrix_power(moments, n) - target).norm().item()

    assert slope((32, 64, 128), [error(n) for n in (32, 64, 128)]) == pytest.approx(2.0, abs=0.1)


def test_ornstein_uhlenbeck_moments():
    y = solve_sde(
        lambda t, y: -2.0 * y,
        lambda t, y: 0.7 * torch.ones_like(y),
        torch.full((50_000, 1), 1.5, dtype=F64),
        [0.0, 0.5, 1.0],
        noise="additive",
        dt=0.05,
        seed=0,
        adjoint=None,
    ).y[..., 0]
    for i, t in ((1, 0.5), (2, 1.0)):
        var = 0.49 / 4 * (1 - math.exp(-4 * t))
        assert y[:, i].mean().item() == pytest.approx(1.5 * math.exp(-2 * t), abs=4 * math.sqrt(var / 5e4) + 5e-4)
        assert y[:, i].var().item() == pytest.approx(var, rel=0.03)
