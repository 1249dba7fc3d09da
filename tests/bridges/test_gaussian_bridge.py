"""Linear references and the Gaussian bridge against closed forms and simulation."""

import math

import pytest
import torch

from scidyn.bridges import GaussianBridge, LinearGaussianReference
from scidyn.errors import OptionError, ShapeError

COV0 = [[1.0, 0.3], [0.3, 0.5]]
COV1 = [[0.6, -0.2], [-0.2, 1.5]]


def test_one_dimension_matches_the_published_closed_form():
    bridge = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1.0)
    assert bridge.cross_covariance.item() == pytest.approx((math.sqrt(2) - 1) / 2, abs=1e-12)
    assert bridge.marginal(0.5)[1].item() == pytest.approx(0.6660534, abs=1e-7)


def test_two_dimensions_match_the_closed_form_of_the_brownian_reference():
    bridge = GaussianBridge([0.0, 0.0], COV0, [1.0, -1.0], COV1, reference=1.0)
    s0, s1 = torch.tensor(COV0, dtype=torch.float64), torch.tensor(COV1, dtype=torch.float64)
    expected = torch.tensor([[0.38553, 0.13499], [0.04320, 0.46652]], dtype=torch.float64)
    assert torch.allclose(bridge.cross_covariance, expected, atol=1e-5)
    C, t, x = bridge.cross_covariance, 0.3, torch.tensor([[0.4, -0.7]], dtype=torch.float64)
    eye = torch.eye(2, dtype=torch.float64)
    cov = (1 - t) ** 2 * s0 + t**2 * s1 + t * (1 - t) * (C + C.mT + eye)
    slope = t * s1 + (1 - t) * C - ((1 - t) * s0 + t * C).mT - t * eye
    mean = t * torch.tensor([1.0, -1.0], dtype=torch.float64)
    assert torch.allclose(bridge.marginal(t)[1], cov, atol=1e-12)
    drift = torch.tensor([1.0, -1.0], dtype=torch.float64) + (x - mean) @ torch.linalg.inv(cov) @ slope
    assert torch.allclose(bridge.drift(t, x), drift, atol=1e-10)


@pytest.mark.parametrize(
    "reference",
    [
        LinearGaussianReference.brownian(2, 0.7),
        LinearGaussianReference.ornstein_uhlenbeck(2, rate=1.3, mean=[0.5, -0.2], sigma=0.8),
        LinearGaussianReference.momentum(1, 1.5),
    ],
    ids=["brownian", "ornstein-uhlenbeck", "momentum"],
)
def test_the_drift_carries_both_marginals_and_their_covariance(reference):
    """Moments of dX = (K X + k) dt + L dW, with the bridge's own drift, must reach Σ1 and Cov(X0, X1)."""
    bridge = GaussianBridge([0.2, 0.1], COV0, [1.0, -1.0], COV1, reference=reference, span=2.0)
    mean, cov = bridge.marginal(0.0)
    cross, n, stop = cov.clone(), 100, 1.9
    noise = reference.L @ reference.L.mT
    eye = torch.eye(2, dtype=torch.float64)

    def rates(t, m, S, c):
        k = bridge.drift(t, torch.zeros(1, 2, dtype=torch.float64))
        K = (bridge.drift(t, eye) - k).mT
        return K @ m + k[0], K @ S + S @ K.mT + noise, c @ K.mT

    h = stop / n
    for i in range(n):  # Heun
        a = rates(i * h, mean, cov, cross)
        b = rates((i + 1) * h, mean + h * a[0], cov + h * a[1], cross + h * a[2])
        mean, cov, cross = (v + h / 2 * (p + q) for v, p, q in zip((mean, cov, cross), a, b, strict=True))
    want_mean, want_cov = bridge.marginal(stop)
    assert torch.allclose(mean, want_mean, atol=2e-3)
    assert torch.allclose(cov, want_cov, atol=5e-3)
    b = reference.bridge(stop, 2.0)
    want_cross = bridge.cov0 @ b.G0.mT + bridge.cross_covariance @ b.G1.mT
    assert torch.allclose(cross, want_cross, atol=5e-3)


def test_the_coupling_is_the_limit_of_sinkhorn_on_a_grid():
    from scidyn.bridges.coupling import bridge_coupling

    reference = LinearGaussianReference.ornstein_uhlenbeck(1, rate=0.8, mean=0.5, sigma=0.9)
    x = torch.linspace(-6, 8, 701, dtype=torch.float64)
    a, b = torch.exp(-x.square() / 2), torch.exp(-(x - 2).square() / 0.5)
    a, b = a / a.sum(), b / b.sum()
    step = reference.transition(1.0)
    log_k = -0.5 * (x.unsqueeze(0) - step.F * x.unsqueeze(1) - step.c).square() / step.Q
    plan = bridge_coupling(log_k, a.clamp_min(1e-300), b.clamp_min(1e-300), tolerance=1e-12).plan.to_dense()
    mean0, mean1 = a @ x, b @ x
    grid = (x - mean0) @ plan @ (x - mean1)
    exact = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=reference).cross_covariance
    assert grid.item() == pytest.approx(exact.item(), abs=1e-7)


def test_ornstein_uhlenbeck_and_momentum_transitions():
    k, s, h = 1.3, 0.8, 0.7
    ou = LinearGaussianReference.ornstein_uhlenbeck(1, rate=k, mean=2.0, sigma=s).transition(h)
    assert ou.F.item() == pytest.approx(math.exp(-k * h))
    assert ou.c.item() == pytest.approx(2.0 * (1 - math.exp(-k * h)))
    assert ou.Q.item() == pytest.approx(s**2 * (1 - math.exp(-2 * k * h)) / (2 * k))
    Q = LinearGaussianReference.momentum(1, s).transition(h).Q
    assert torch.allclose(Q, s**2 * torch.tensor([[h**3 / 3, h**2 / 2], [h**2 / 2, h]], dtype=torch.float64))


def test_limits_of_small_and_large_noise():
    quiet = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1e-3)
    loud = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1e3)
    assert quiet.cross_covariance.item() == pytest.approx(0.5, abs=1e-5)  # optimal transport: σ0 σ1
    assert loud.cross_covariance.item() == pytest.approx(0.0, abs=1e-5)  # independence


def test_sampled_ends_have_the_cross_covariance():
    bridge = GaussianBridge([0.0, 0.0], COV0, [1.0, -1.0], COV1, reference=0.5)
    x0, x1 = bridge.sample_ends(40000, torch.Generator().manual_seed(0))
    sample = (x0 - x0.mean(0)).mT @ (x1 - x1.mean(0)) / len(x0)
    assert torch.allclose(sample, bridge.cross_covariance, atol=0.03)


def test_mistakes_are_named():
    with pytest.raises(OptionError, match="positive definite"):
        GaussianBridge([0.0], [[0.0]], [1.0], [[1.0]])
    with pytest.raises(ShapeError, match="reference has 3 states"):
        GaussianBridge([0.0], [[1.0]], [1.0], [[1.0]], reference=LinearGaussianReference.brownian(3))
    with pytest.raises(OptionError, match="sigma"):
        LinearGaussianReference.brownian(2, 0.0)
