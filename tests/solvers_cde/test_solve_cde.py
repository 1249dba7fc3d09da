"""Controlled equations against closed forms, iterated integrals, fine steps and ordinary equations."""

import numpy as np
import pytest
import torch

from scidyn.errors import OptionError, ShapeError, SolverError, TimeGridError
from scidyn.solvers import HermiteCubicPath, LinearPath, RectilinearPath, log_ode, solve_cde, with_time
from scidyn.solvers.cde.signature import log_signature, signature

F64 = torch.float64


def wiggle(rows=3, knots=65, channels=2, seed=0):
    """A smooth path with time in front."""
    t = torch.linspace(0, 1, knots, dtype=F64)
    g = torch.Generator().manual_seed(seed)
    phase, speed = torch.rand(2, rows, 1, channels - 1, dtype=F64, generator=g)
    return t, with_time(torch.sin(4 * (1 + speed) * t.view(1, -1, 1) + 6 * phase), t)


def field(t, z):
    return torch.stack([torch.sin(z.roll(1, 1)) - z, torch.cos(z)], dim=-1)


@pytest.mark.parametrize("make", [LinearPath, HermiteCubicPath])
@pytest.mark.parametrize("route", ["ode", "increments"])
def test_exponential_of_the_path(make, route):
    t, x = wiggle()
    X = make(x, t)
    options = {"rtol": 1e-8, "atol": 1e-10, "max_steps": 20_000} if route == "ode" else {"substeps": 4}
    z = solve_cde(
        lambda t, z: torch.stack([0 * z, z], -1),
        X,
        torch.ones(3, 1, dtype=F64),
        t=[0.0, 1.0],
        route=route,
        adjoint=None,
        **options,
    )
    assert torch.allclose(z.y[:, -1, 0], torch.exp(x[:, -1, 1] - x[:, 0, 1]), rtol=1e-5)


def test_increments_have_the_orders_of_their_steps():
    t, x = wiggle(knots=9)
    X = LinearPath(x, t)
    z0 = torch.ones(3, 2, dtype=F64)
    fine = solve_cde(field, X, z0, substeps=64, adjoint=None).y[:, -1]
    for method, order in (("euler", 1), ("heun", 2), ("midpoint", 2), ("rk4", 4)):
        errors = [
            (solve_cde(field, X, z0, method=method, substeps=n, adjoint=None).y[:, -1] - fine).norm().item()
            for n in (4, 8, 16)
        ]
        assert -np.polyfit(np.log([4, 8, 16]), np.log(errors), 1)[0] == pytest.approx(order, abs=0.2)


@pytest.mark.parametrize("channels", [2, 3])
def test_signature_against_iterated_integrals(channels):
    steps = torch.randn(2, 5, channels, dtype=F64, generator=torch.Generator().manual_seed(0))
    fine = (steps / 400).repeat_interleave(400, dim=1)
    one = torch.zeros(2, channels, dtype=F64)
    two, three = torch.zeros(2, channels, channels, dtype=F64), torch.zeros(2, channels, channels, channels, dtype=F64)
    for i in range(fine.shape[1]):  # midpoint sums of the definition
        d = fine[:, i]
        middle_one = one + d / 2
        middle_two = two + 0.5 * one.unsqueeze(-1) * d.unsqueeze(-2)
        three = three + middle_two.unsqueeze(-1) * d[:, None, None]
        two = two + middle_one.unsqueeze(-1) * d.unsqueeze(-2)
        one = one + d
    found = signature(steps, 3)
    for a, b in zip(found, (one, two, three), strict=True):
        assert torch.allclose(a, b, atol=2e-4)
    log = log_signature(steps, 3)
    assert torch.allclose(log[1], -log[1].transpose(1, 2), atol=1e-12)
    cyclic = log[2] + log[2].permute(0, 2, 3, 1) + log[2].permute(0, 3, 1, 2)
    assert cyclic.abs().max() < 1e-10  # a Lie element of degree 3 vanishes under cyclic sums


def test_log_ode_gains_an_order_with_each_level():
    t, x = wiggle(knots=257, rows=2)
    X = LinearPath(x, t)
    z0 = torch.ones(2, 2, dtype=F64)
    fine = solve_cde(field, X, z0, adjoint=None).y[:, -1]
    slopes = []
    for depth in (1, 2, 3):
        errors = [
            (log_ode(field, X, z0, window=w, depth=depth, substeps=4, adjoint=None).y[:, -1] - fine).norm().item()
            for w in (32, 16, 8)
        ]
        slopes.append(-np.polyfit(np.log([8, 16, 32]), np.log(errors), 1)[0])
    # a smooth path: the level left out is of relative size window^depth; odd ones cancel to higher order
    assert slopes[0] == pytest.approx(2, abs=0.3)
    assert slopes[1] > 2.7
    assert slopes[2] > 3.7


def test_log_ode_of_depth_two_solves_an_area_exactly():
    # dA = x dy - y dx: the second level is all there is
    t = torch.linspace(0, 1, 33, dtype=F64)
    angle = 2 * torch.pi * t
    X = LinearPath(with_time(torch.stack([torch.cos(angle), torch.sin(angle)], -1).unsqueeze(0), t), t)

    def area(t, z):
        zero, one = torch.zeros_like(z[:, 0]), torch.ones_like(z[:, 0])
        return torch.stack(
            [
                torch.stack([zero, one, zero], -1),
                torch.stack([zero, zero, one], -1),
                torch.stack([zero, -z[:, 1], z[:, 0]], -1),
            ],
            1,
        )

    z = log_ode(area, X, torch.tensor([[1.0, 0.0, 0.0]], dtype=F64), window=32, depth=2, substeps=1, adjoint=None)
    polygon = 32 * np.sin(2 * np.pi / 32)
    assert z.y[0, -1, 2].item() == pytest.approx(polygon, abs=1e-10)


def test_ragged_rows_do_what_each_would_alone():
    g = torch.Generator().manual_seed(1)
    t = torch.rand(3, 7, dtype=F64, generator=g).cumsum(1)
    x = with_time(torch.randn(3, 7, 1, dtype=F64, generator=g), t)
    t[1, 4:], x[1, 4:] = torch.nan, torch.nan
    z0 = torch.ones(3, 2, dtype=F64)
    batch = solve_cde(field, LinearPath(x, t), z0, substeps=3, adjoint=None)
    for row, length in ((0, 7), (1, 4), (2, 7)):
        alone = solve_cde(field, LinearPath(x[row, :length], t[row, :length]), z0[:1], substeps=3, adjoint=None)
        assert torch.allclose(batch.y[row, -1], alone.y[0, -1], rtol=1e-12)
        assert torch.allclose(batch.y[row, :length], alone.y[0], rtol=1e-12)


@pytest.mark.parametrize("make", [LinearPath, RectilinearPath])
def test_adaptive_steps_end_at_the_kinks_of_a_path(make):
    t, x = wiggle(knots=9)
    X = make(x, t)
    seen = []

    def field_seen(time, z):
        seen.append(time.item())
        return torch.stack([0 * z, z], -1)

    z = solve_cde(field_seen, X, torch.ones(3, 1, dtype=F64), route="ode", rtol=1e-9, atol=1e-11, adjoint=None)
    assert torch.allclose(z.y[:, -1, 0], torch.exp(x[:, -1, 1] - x[:, 0, 1]), rtol=1e-8)
    assert int(z.stats.n_rejected.max()) <= 2 * len(X.knots)
    for knot in X.knots[1:-1].tolist():
        assert min(abs(s - knot) for s in seen) < 1e-12


def test_the_gradient_can_be_differentiated_again():
    t, x = wiggle(knots=9)
    found = []
    for adjoint in ("direct", "discrete"):
        weight, z0 = torch.tensor(0.7, dtype=F64, requires_grad=True), torch.ones(3, 2, dtype=F64, requires_grad=True)
        y = solve_cde(lambda t, z, w=weight: w * field(t, z), LinearPath(x, t), z0, adjoint=adjoint).y
        first = torch.autograd.grad((y**2).sum(), [weight, z0], create_graph=True)
        found.append(torch.autograd.grad(sum((g**2).sum() for g in first), [weight, z0]))
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-10, atol=1e-12)


def test_gradients_agree_and_reach_field_start_and_data():
    t, x = wiggle(knots=17)
    found = []
    for adjoint in ("direct", "discrete"):
        weight = torch.tensor(0.7, dtype=F64, requires_grad=True)
        data, z0 = x.clone().requires_grad_(), torch.ones(3, 2, dtype=F64, requires_grad=True)
        y = solve_cde(lambda t, z, weight=weight: weight * field(t, z), LinearPath(data, t), z0, adjoint=adjoint).y
        found.append(torch.autograd.grad((y**2).sum(), [weight, data, z0]))
    assert all(torch.allclose(a, b, rtol=1e-12, atol=1e-14) for a, b in zip(*found, strict=True))
    weight = torch.tensor(0.7, dtype=F64, requires_grad=True)

    def loss(w):
        return (
            log_ode(lambda t, z: w * field(t, z), LinearPath(x, t), torch.ones(3, 2, dtype=F64), window=4, depth=3)
            .y[:, -1]
            .sum()
        )

    (slope,) = torch.autograd.grad(loss(weight), weight)
    difference = (loss(weight.detach() + 1e-5) - loss(weight.detach() - 1e-5)) / 2e-5
    assert slope.item() == pytest.approx(difference.item(), rel=1e-7)


def test_rectilinear_path_is_solved_at_its_observations():
    x = torch.tensor([[[0.0, 1.0], [0.5, 3.0], [1.0, 2.0]]], dtype=F64)
    X = RectilinearPath(x)
    z = solve_cde(lambda t, z: torch.ones(1, 1, 2, dtype=F64), X, torch.zeros(1, 1, dtype=F64), X.observation_knots)
    assert z.y[0, :, 0].tolist() == pytest.approx([0.0, 2.5, 2.0])


def bad(**change):
    t, x = wiggle(knots=5)
    given = {"f": field, "X": LinearPath(x, t), "z0": torch.ones(3, 2, dtype=F64), **change}
    return solve_cde(given.pop("f"), given.pop("X"), given.pop("z0"), **given)


@pytest.mark.parametrize(
    ("call", "kind", "words"),
    [
        (lambda: bad(f=lambda t, z: z), ShapeError, "channels of X"),
        (lambda: bad(z0=torch.ones(2, 2, dtype=F64)), ShapeError, "rows"),
        (lambda: bad(z0=torch.ones(3, 2)), ShapeError, "dtype"),
        (lambda: bad(z0=torch.ones(3, dtype=F64)), ShapeError, "z0 must"),
        (lambda: bad(t=[0.0, 0.3]), TimeGridError, "not a knot"),
        (lambda: bad(method="dopri5"), OptionError, "method"),
        (lambda: bad(route="log"), OptionError, "route"),
        (lambda: bad(rtol=1e-3), OptionError, "rtol"),
        (lambda: bad(X=3, route="ode"), OptionError, "derivative"),
        (lambda: bad(f=lambda t, z: 1e200 * field(t, z) * (z + 1).unsqueeze(-1) ** 3), SolverError, "NON_FINITE_STATE"),
        (
            lambda: log_ode(
                field,
                LinearPath(torch.randn(3, 9, 2, dtype=F64, generator=torch.Generator().manual_seed(0))),
                torch.ones(3, 2, dtype=F64),
                window=2,
            ),
            OptionError,
            "with_time",
        ),
        (
            lambda: log_ode(field, LinearPath(wiggle()[1]), torch.ones(3, 2, dtype=F64), window=2, depth=4),
            OptionError,
            "depth",
        ),
        (lambda: log_ode(field, LinearPath(wiggle()[1]), torch.ones(3, 2, dtype=F64), window=0), OptionError, "window"),
    ],
)
def test_bad_input_is_one_sentence(call, kind, words):
    with pytest.raises(kind, match=words) as caught:
        call()
    assert "\n" not in str(caught.value)
