"""Fractional Brownian motion: weights and errors against quadrature, covariance against samples, gradient in H."""

import math

import numpy as np
import pytest
import torch
from scipy import integrate, special

from scidyn.errors import OptionError, SolverWarning, TimeGridError
from scidyn.solvers import MarkovFBM
from scidyn.solvers.brownian.fractional import _normal_matrix, _target


@pytest.mark.parametrize("hurst", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("kind", ["I", "II"])
def test_normal_equations_against_quadrature(hurst, kind):
    rates, T = np.array([0.3, 1.0, 5.0, 70.0]), 1.3
    a = hurst - 0.5
    b, matrix = _target(rates, T, hurst, kind, False), _normal_matrix(rates, T, kind)
    for k, g in enumerate(rates):

        def at(t, g=g):  # E B_t (Y_k(t) - Y_k(0)) as an integral over u = t - s; split at the kinks
            recent = integrate.quad(lambda u: math.exp(-g * u), 0, t, weight="alg", wvar=(a, 0), epsabs=1e-12)[0]
            if kind == "I":  # (e^{-γ u} - e^{-γ (u - t)}) (u^a - (u - t)^a) for u > t
                far = integrate.quad(
                    lambda u: math.exp(-g * u) * (math.exp(-g * t) - 1) * ((u + t) ** a),
                    0,
                    np.inf,
                    epsabs=1e-12,
                    limit=200,
                )[0]
                near = (math.exp(-g * t) - 1) * special.gamma(a + 1) / g ** (a + 1)
                recent += far - near
            return recent / math.gamma(hurst + 0.5)

        exact = integrate.quad(at, 0, T, epsabs=1e-9)[0]
        assert b[k] == pytest.approx(exact, rel=1e-6)
    i, j = rates[0], rates[2]

    def pair(t):
        moving = -math.expm1(-(i + j) * t) / (i + j)
        return moving + (math.expm1(-i * t) * math.expm1(-j * t) / (i + j) if kind == "I" else 0.0)

    assert matrix[0, 2] == pytest.approx(integrate.quad(pair, 0, T)[0], rel=1e-9)


def test_errors_of_published_size_that_fall_with_the_number_of_terms():
    assert MarkovFBM(0.3, 1.0, 8, gamma_range=(1e-2, 1e4)).l2_error == pytest.approx(2e-4, rel=0.5)
    assert MarkovFBM(0.2, 1.0, 5, kind="I", gamma_range=(1e-3, 1e2)).l2_error == pytest.approx(0.043, rel=0.1)
    errors = [MarkovFBM(0.35, 1.0, k).l2_error for k in (4, 6, 8, 12)]
    assert errors == sorted(errors, reverse=True)
    assert MarkovFBM(0.5, 1.0, 8).l2_error < 1e-3


@pytest.mark.parametrize(("kind", "hurst"), [("I", 0.3), ("II", 0.3), ("I", 0.7), ("II", 0.7)])
def test_covariance_is_that_of_fractional_motion_and_of_the_samples(kind, hurst):
    noise = MarkovFBM(hurst, 1.0, 10, kind=kind, gamma_range=(1e-3, 1e4))
    t = torch.tensor([0.2, 0.5, 1.0], dtype=torch.float64)
    found = noise.covariance(t.unsqueeze(1), t)
    if kind == "I":
        exact = 0.5 * (t.unsqueeze(1) ** (2 * hurst) + t ** (2 * hurst) - (t.unsqueeze(1) - t).abs() ** (2 * hurst))
    else:

        def entry(s, r):
            s, r = min(s, r), max(s, r)
            a = hurst - 0.5
            value = integrate.quad(lambda u: (r - s + u) ** a, 0, s, weight="alg", wvar=(a, 0))[0]
            return value * 2 * hurst

        exact = torch.tensor([[entry(s, r) if s != r else s ** (2 * hurst) for r in t.tolist()] for s in t.tolist()])
    assert torch.allclose(found, exact.double(), atol=0.03)
    paths = noise.sample(t, (20_000,), torch.Generator().manual_seed(0))
    sampled = torch.cov(paths)
    error = 3.5 * torch.sqrt((found.diagonal().unsqueeze(1) * found.diagonal() + found**2) / 20_000)
    assert ((sampled - found).abs() < error).all()


def test_weights_are_differentiable_in_the_hurst_index():
    h = torch.tensor(0.35, dtype=torch.float64, requires_grad=True)
    (slope,) = torch.autograd.grad(MarkovFBM(h, 1.0, 5).omega.sum(), h)
    step = 1e-4
    ahead, behind = (MarkovFBM(0.35 + s, 1.0, 5).omega.sum() for s in (step, -step))
    assert slope.item() == pytest.approx(((ahead - behind) / (2 * step)).item(), rel=1e-5)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_weights_are_differentiable_twice_in_the_hurst_index(kind):
    def slope(value):
        h = torch.tensor(value, dtype=torch.float64, requires_grad=True)
        return torch.autograd.grad((MarkovFBM(h, 1.0, 5, kind=kind).omega ** 2).sum(), h, create_graph=True)[0], h

    first, h = slope(0.35)
    (second,) = torch.autograd.grad(first, h)
    difference = (slope(0.35 + 1e-4)[0] - slope(0.35 - 1e-4)[0]) / 2e-4
    assert second.item() == pytest.approx(difference.item(), rel=1e-3)


def test_bad_input_is_named():
    for options, words in (
        ({"hurst": 1.0}, "hurst"),
        ({"horizon": 0.0}, "horizon"),
        ({"n_terms": 0}, "n_terms"),
        ({"gamma_range": (2.0, 1.0)}, "increase"),
    ):
        with pytest.raises(OptionError, match=words):
            MarkovFBM(**{"hurst": 0.5, "horizon": 1.0, **options})
    with pytest.raises(TimeGridError, match="horizon"):
        MarkovFBM(0.5, 1.0).sample([0.5, 2.0], (1,), torch.Generator())
    with pytest.warns(SolverWarning, match="n_terms"):
        MarkovFBM(0.1, 1.0, 2)
