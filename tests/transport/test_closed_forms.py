"""Gaussian and mixture closed forms against published numbers, quadrature and linear programming."""

import math

import pytest
import torch

from scidyn.errors import DataError, OptionError, ShapeError
from scidyn.transport import (
    GaussianBridge,
    bures_wasserstein,
    exact_transport,
    gaussian_map,
    gaussian_sinkhorn,
    mixture_wasserstein,
    sinkhorn,
    wasserstein,
)

DOUBLE = torch.float64
S0 = torch.tensor([[1.0, 0.3], [0.3, 0.5]], dtype=DOUBLE)
S1 = torch.tensor([[0.6, -0.2], [-0.2, 1.5]], dtype=DOUBLE)
ZERO, ONE = torch.zeros(2, dtype=DOUBLE), torch.ones(2, dtype=DOUBLE)


def test_cross_covariance_of_the_bridge_is_the_known_one():
    bridge = GaussianBridge(ZERO, S0, ONE, S1, sigma=1.0)
    expected = torch.tensor([[0.38553, 0.13499], [0.04320, 0.46652]], dtype=DOUBLE)
    torch.testing.assert_close(bridge.cross_covariance, expected, rtol=0, atol=6e-6)
    # a Brownian motion of sigma over T is one of sigma √T over 1
    longer = GaussianBridge(ZERO, S0, ONE, S1, sigma=0.5, duration=4.0)
    torch.testing.assert_close(longer.cross_covariance, bridge.cross_covariance)


def test_bridge_transports_covariances_by_its_drift():
    bridge = GaussianBridge(ZERO, S0, ONE, S1, sigma=0.8, duration=2.0)
    torch.testing.assert_close(bridge.covariance(0.0), S0)
    torch.testing.assert_close(bridge.covariance(2.0), S1)

    def slope(t):
        """A in the drift m' + A (x - m)."""
        probe = bridge.mean(t) + torch.eye(2, dtype=DOUBLE)
        return (bridge.drift(t, probe) - bridge.drift(t, bridge.mean(t).expand(2, 2))).mT

    h = 1e-5
    for t in (0.3, 1.1):
        A, S = slope(t), bridge.covariance(t)
        rate = (bridge.covariance(t + h) - bridge.covariance(t - h)) / (2 * h)
        # d/dt S = A S + S Aᵀ + σ² I
        torch.testing.assert_close(rate, A @ S + S @ A.mT + 0.64 * torch.eye(2, dtype=DOUBLE), rtol=1e-7, atol=1e-8)
        # Cov(X_t, X_0) = (1-u) S0 + u Cᵀ solves d/dt K = A K: with A transposed the marginals alone would hold
        C, u = bridge.cross_covariance, t / 2.0
        torch.testing.assert_close((C.mT - S0) / 2.0, A @ ((1 - u) * S0 + u * C.mT), rtol=1e-9, atol=1e-10)


def test_entropic_value_and_coupling_agree_with_sinkhorn_on_a_grid():
    grid = torch.linspace(-6, 8, 701, dtype=DOUBLE)[:, None]
    a = torch.exp(-0.5 * grid[:, 0] ** 2)
    b = torch.exp(-2.0 * (grid[:, 0] - 2.0) ** 2)
    plan = sinkhorn(grid, grid, a / a.sum(), b / b.sum(), epsilon=2.0, tolerance=1e-12)
    one = torch.ones(1, 1, dtype=DOUBLE)
    value, C = gaussian_sinkhorn(torch.zeros(1, dtype=DOUBLE), one, 2 * one[0], 0.25 * one, epsilon=2.0)
    cross = (grid[:, 0] * plan.apply(grid)[:, 0]).sum()
    assert float(cross) == pytest.approx((math.sqrt(2) - 1) / 2, abs=1e-8)
    assert float(C) == pytest.approx((math.sqrt(2) - 1) / 2, abs=1e-12)
    assert float(plan.value) == pytest.approx(float(value), rel=1e-8)


def test_bures_distance_and_map():
    A, c = gaussian_map(ZERO, S0, ONE, S1)
    torch.testing.assert_close(A @ S0 @ A.mT, S1)
    torch.testing.assert_close(A, A.mT)
    torch.testing.assert_close(c, ONE)
    # E|X - A X - c|² of the optimal map is the squared distance
    gap = A - torch.eye(2, dtype=DOUBLE)
    expected = (gap @ S0 @ gap.mT).trace() + 2.0
    torch.testing.assert_close(bures_wasserstein(ZERO, S0, ONE, S1) ** 2, expected)
    value, _ = gaussian_sinkhorn(ZERO, S0, ONE, S1, epsilon=1e-7)
    torch.testing.assert_close(value, expected, rtol=1e-4, atol=0)


def test_mixture_distance_bounds_the_distance_of_samples():
    g = torch.Generator().manual_seed(0)
    w0, w1 = torch.tensor([0.3, 0.7], dtype=DOUBLE), torch.tensor([0.5, 0.25, 0.25], dtype=DOUBLE)
    m0, m1 = torch.randn(2, 1, generator=g, dtype=DOUBLE), torch.randn(3, 1, generator=g, dtype=DOUBLE) + 2
    s0, s1 = torch.rand(2, 1, 1, generator=g, dtype=DOUBLE) + 0.2, torch.rand(3, 1, 1, generator=g, dtype=DOUBLE) + 0.2
    found = mixture_wasserstein(w0, m0, s0, w1, m1, s1)
    torch.testing.assert_close(found.plan.sum(1), w0)
    torch.testing.assert_close(found.plan.sum(0), w1)
    by_hand = (m0[:, None, 0] - m1[:, 0]) ** 2 + (s0[:, None, 0, 0].sqrt() - s1[:, 0, 0].sqrt()) ** 2
    torch.testing.assert_close(found.value**2, exact_transport(a=w0, b=w1, cost=by_hand).value)
    grid = torch.linspace(-8, 12, 4001, dtype=DOUBLE)

    def law(w, m, s):
        return (w * torch.exp(-((grid[:, None] - m[:, 0]) ** 2) / (2 * s[:, 0, 0])) / s[:, 0, 0].sqrt()).sum(1)

    p, q = law(w0, m0, s0), law(w1, m1, s1)
    exact = float(wasserstein(grid[:, None], grid[:, None], 2, a=p / p.sum(), b=q / q.sum()))
    assert exact < float(found.value)
    alone = mixture_wasserstein(w0[:1] / w0[0], m0[:1], s0[:1], w1[:1] / w1[0], m1[:1], s1[:1])
    torch.testing.assert_close(alone.value, bures_wasserstein(m0[0], s0[0], m1[0], s1[0]))


def test_gradient_of_the_bures_distance():
    m = ONE.clone().requires_grad_()
    L = torch.linalg.cholesky(S0).requires_grad_()
    assert torch.autograd.gradcheck(lambda m, L: bures_wasserstein(ZERO, S1, m, L @ L.mT), (m, L))


def test_bad_laws_are_named():
    with pytest.raises(DataError, match="symmetric"):
        bures_wasserstein(ZERO, torch.tensor([[1.0, 0.5], [0.0, 1.0]], dtype=DOUBLE), ONE, S1)
    with pytest.raises(DataError, match="negative eigenvalue"):
        bures_wasserstein(ZERO, -S0, ONE, S1)
    with pytest.raises(DataError, match="singular"):
        gaussian_map(ZERO, torch.zeros(2, 2, dtype=DOUBLE), ONE, S1)
    with pytest.raises(ShapeError, match="dimensions"):
        bures_wasserstein(ZERO, S0, torch.zeros(1), torch.eye(1))
    with pytest.raises(OptionError, match="sigma"):
        GaussianBridge(ZERO, S0, ONE, S1, sigma=0.0)
    with pytest.raises(OptionError, match="last time"):
        GaussianBridge(ZERO, S0, ONE, S1, sigma=1.0).drift(1.0, torch.zeros(1, 2, dtype=DOUBLE))
    with pytest.raises(ShapeError, match="mixture"):
        mixture_wasserstein(ONE / 2, torch.zeros(2), S0, ONE / 2, torch.zeros(2), S1)
