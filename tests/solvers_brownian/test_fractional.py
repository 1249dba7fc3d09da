"""Weights of the Markov approximation against quadrature of the kernels; sampled covariance; gradient in H."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import quad
from torch.testing import assert_close

from scidyn.errors import OptionError
from scidyn.solvers import MarkovFBM
from scidyn.solvers.brownian.fractional import _system

F64 = torch.float64


def kernel(hurst, s):
    return s ** (hurst - 0.5) / math.gamma(hurst + 0.5)


@pytest.mark.parametrize("hurst", [0.2, 0.4, 0.7])
@pytest.mark.parametrize("kind", ["I", "II"])
def test_right_hand_side_by_quadrature(kind, hurst):
    T, rates = 1.3, torch.tensor([0.3, 1.0, 5.0, 30.0], dtype=F64)
    _, b, _ = _system(kind, hurst, T, rates)
    for k, g in enumerate(rates.tolist()):

        def covariance(t, g=g):
            """Of Y(t) - Y(0) and B_t."""
            inside = quad(lambda s: kernel(hurst, s) * math.exp(-g * s), 0, t, limit=200)[0]
            if kind == "II" or t == 0:
                return inside
            # substitution tames the tail of the part before time zero
            past = quad(
                lambda u: (kernel(hurst, t + u) - kernel(hurst, u)) * math.exp(-g * u) * math.expm1(-g * t),
                0, np.inf, limit=400,
            )[0]  # fmt: skip
            return inside + past

        exact = quad(covariance, 0, T, limit=100, epsrel=1e-7)[0]
        assert b[k].item() == pytest.approx(exact, rel=2e-5)


def test_half_is_brownian_motion_and_more_terms_are_better():
    noise = MarkovFBM(0.5, 2.0, n_terms=8)
    assert noise.l2_error < 1e-9
    assert noise.covariance(0.7, 1.5).item() == pytest.approx(0.7, rel=1e-4)
    errors = [MarkovFBM(0.3, 1.0, n_terms=k).l2_error for k in (2, 4, 8)]
    assert errors[0] > errors[1] > errors[2] > 0


@pytest.mark.parametrize(("hurst", "tolerance"), [(0.3, 0.02), (0.7, 0.02)])
def test_covariance_of_kind_one_is_that_of_fractional_brownian_motion(hurst, tolerance):
    noise = MarkovFBM(hurst, 1.0, n_terms=12, kind="I", gamma_range=(1e-4, 1e4))
    for s, t in ((0.3, 0.3), (0.4, 0.9), (1.0, 1.0)):
        exact = 0.5 * (s ** (2 * hurst) + t ** (2 * hurst) - abs(t - s) ** (2 * hurst))
        assert noise.covariance(s, t).item() == pytest.approx(exact, abs=tolerance)


@pytest.mark.parametrize("kind", ["I", "II"])
def test_samples_have_the_closed_covariance(kind):
    noise = MarkovFBM(0.35, 1.0, kind=kind)
    x = noise.sample(torch.tensor([0.2, 0.5, 1.0], dtype=F64), (20000,), torch.Generator().manual_seed(0))
    for i, s in enumerate((0.2, 0.5, 1.0)):
        for j, t in enumerate((0.2, 0.5, 1.0)):
            product = x[i] * x[j]
            assert abs(product.mean() - noise.covariance(s, t)) < 4 * product.std() / 20000**0.5


def test_gradient_in_the_hurst_index():
    h = torch.tensor(0.3, dtype=F64, requires_grad=True)
    (slope,) = torch.autograd.grad(MarkovFBM(h, 1.0).covariance(0.4, 0.9), h)
    up, down = (MarkovFBM(0.3 + e, 1.0).covariance(0.4, 0.9) for e in (1e-4, -1e-4))
    assert_close(slope, (up - down) / 2e-4, rtol=1e-4, atol=0)


def test_bad_input_is_named():
    with pytest.raises(OptionError, match="hurst must be a finite number"):
        MarkovFBM(1.0, 1.0)
    with pytest.raises(OptionError, match="one term cannot"):
        MarkovFBM(0.3, 1.0, n_terms=1)
    with pytest.raises(OptionError, match="two increasing rates"):
        MarkovFBM(0.3, 1.0, gamma_range=(1.0, 0.5))
