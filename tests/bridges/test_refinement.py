"""Reference refinement against closed forms, simulated truth and its own promises."""

import numpy as np
import pytest
import torch

from scidyn.bridges import GaussianBridge, IterativeReferenceRefinement, Library, Snapshots
from scidyn.bridges.coupling import bridge_coupling
from scidyn.bridges.family import Family
from scidyn.bridges.linearised import moments
from scidyn.bridges.piecewise import PiecewiseBridge
from scidyn.bridges.starts import matched_start
from scidyn.errors import DataError, FitError, OptionError, ShapeError
from scidyn.systems import LotkaVolterra, Repressilator


def ornstein_uhlenbeck(times, n, rate=0.7, mean=1.5, sigma=0.3, seed=0, start=4.0):
    """Independent exact draws at every time, as destructive measurement gives them."""
    rng = np.random.default_rng(seed)
    out = []
    for t in times:
        x0 = start + 0.2 * rng.normal(size=(n, 1))
        spread = sigma * np.sqrt((1 - np.exp(-2 * rate * t)) / (2 * rate))
        out.append(mean + np.exp(-rate * t) * (x0 - mean) + spread * rng.normal(size=(n, 1)))
    return out


def noisy(system, theta, first, times, n, seed=0, noise=0.02, h=0.01):
    """Fresh Euler–Maruyama runs for every snapshot, noise proportional to the state."""
    rng = np.random.default_rng(seed)
    theta, out = torch.tensor(theta, dtype=torch.float64), []
    for t in times:
        y = np.array(first) + 0.1 * rng.random((n, len(first)))
        for _ in range(round(t / h)):
            rate = system.vector_field(torch.zeros(()), torch.as_tensor(y), theta).numpy()
            y = y + h * rate + noise * y * np.sqrt(h) * rng.normal(size=y.shape)
        out.append(y)
    return out


def noisy_predator_prey(times, n, seed=0):
    return noisy(LotkaVolterra(), [1.0, 0.4, 0.4, 0.1], [5.0, 4.0], times, n, seed, h=0.005)


def ou_drift(t, x, rate=0.1, mean=0.0):
    return rate * (mean - x)


def test_linear_moments_match_the_closed_form():
    family = Family(ou_drift)
    theta = torch.tensor([0.7, 1.5], dtype=torch.float64)
    x = torch.tensor([[4.0], [0.0]], dtype=torch.float64)
    one = torch.ones(2, dtype=torch.float64)
    grid = torch.linspace(0, 1, 5, dtype=torch.float64)
    m = moments(family, theta, lambda s: 0.3 * torch.ones_like(s), x, 0 * one, 2.0 * one, grid)
    t = 2.0 * grid
    assert torch.allclose(m.mean[:, :, 0], 1.5 + torch.exp(-0.7 * t) * (x - 1.5), atol=1e-5)
    assert torch.allclose(m.propagator[0, :, 0, 0], torch.exp(-0.7 * t), atol=1e-5)
    assert torch.allclose(m.cov[0, :, 0, 0], 0.09 * (1 - torch.exp(-1.4 * t)) / 1.4, atol=1e-6)


def test_jacobians_match_differences():
    family, y = Family(Repressilator()), torch.rand(4, 3, dtype=torch.float64) + 0.5
    t = torch.zeros(4, dtype=torch.float64)
    _, J = family.jacobian_x(t, y, family.start)
    _, P = family.jacobian_theta(t, y, family.start)
    h = 1e-6
    for k in range(3):
        e = torch.zeros(3, dtype=torch.float64)
        e[k] = h
        slope = (family.drift(t, y + e, family.start) - family.drift(t, y - e, family.start)) / (2 * h)
        assert torch.allclose(J[:, :, k], slope, atol=1e-7)
    for q in range(4):
        e = torch.zeros(4, dtype=torch.float64)
        e[q] = h
        slope = (family.drift(t, y, family.start + e) - family.drift(t, y, family.start - e)) / (2 * h)
        assert torch.allclose(P[:, :, q], slope, atol=1e-7)


def test_without_drift_it_is_the_brownian_bridge_of_gaussians():
    rng = np.random.default_rng(1)
    clouds = [rng.normal(size=(700, 1)), 2 + 0.5 * rng.normal(size=(700, 1))]
    clouds = [(c - c.mean()) / c.std() * s + m for c, s, m in zip(clouds, (1.0, 0.5), (0.0, 2.0), strict=True)]
    result = IterativeReferenceRefinement(lambda t, x, k=0.0: k * x, sigma=1.0, iterations=0).fit(clouds, [0.0, 1.0])
    exact = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1.0)
    plan = result.state.couplings[0].plan.to_dense().numpy()
    cross = (clouds[0][:, 0]) @ plan @ (clouds[1][:, 0] - 2.0)
    assert cross == pytest.approx(exact.cross_covariance.item(), abs=0.02)
    middle = result.at(0.5, 20000)["state"].values
    mean, cov = exact.marginal(0.5)
    assert middle.mean() == pytest.approx(mean.item(), abs=0.03)
    assert middle.var() == pytest.approx(cov.item(), rel=0.05)
    assert np.isnan(result.theta["stderr"].values).all()


def test_paths_have_the_covariance_of_the_bridge_in_time():
    """Drawn paths between fixed ends: the Brownian bridge covariance s (1 − t) σ²."""
    snapshots = Snapshots.of([[[0.0], [0.0]], [[1.0], [1.0]]], [0.0, 1.0])
    family = Family(lambda t, x, k=0.0: k * x)
    bridge = PiecewiseBridge.solve(snapshots, family, family.start, lambda x: 0.5 * torch.ones_like(x))
    _, paths = bridge.paths(20000, 8, torch.Generator().manual_seed(0))
    s = torch.linspace(0, 1, 9, dtype=torch.float64)
    lines = paths[:, :, 0] - s
    cov = lines.mT @ lines / len(lines)
    want = 0.25 * torch.minimum(s[:, None], s[None, :]) * (1 - torch.maximum(s[:, None], s[None, :]))
    assert torch.allclose(cov, want, atol=3e-3)


def test_ornstein_uhlenbeck_parameters_are_recovered_and_the_divergence_falls():
    times = [0.0, 0.5, 1.0, 2.0, 3.5]
    result = IterativeReferenceRefinement(ou_drift, sigma=0.3).fit(ornstein_uhlenbeck(times, 300), times)
    estimate, stderr = result.theta["estimate"].values, result.theta["stderr"].values
    assert np.abs(estimate - [0.7, 1.5]).max() < 0.03
    assert (np.abs(estimate - [0.7, 1.5]) < 3.5 * stderr).all()
    assert (np.diff(result.history["objective"].values) < 1e-6).all()


@pytest.mark.slow
def test_standard_errors_are_those_of_repeated_experiments():
    times = [0.0, 0.7, 1.5, 3.0]
    fits = [
        IterativeReferenceRefinement(ou_drift, sigma=0.3, starts=1, start={"rate": 0.7, "mean": 1.5}).fit(
            ornstein_uhlenbeck(times, 60, seed=seed), times
        )
        for seed in range(100, 120)
    ]
    estimates = np.array([f.theta["estimate"].values for f in fits])
    claimed = np.array([f.theta["stderr"].values for f in fits]).mean(0)
    ratio = claimed / estimates.std(0, ddof=1)
    assert (ratio > 0.6).all()
    assert (ratio < 1.6).all()


def test_predator_and_prey_within_three_percent_and_held_out_snapshots():
    times = np.arange(9.0)
    clouds = noisy_predator_prey(times, 60)
    result = IterativeReferenceRefinement(LotkaVolterra(0.0, 0.0, 0.0, 0.0), 0.1, n_steps=20, n_paths=100).fit(
        clouds, times, holdout=[1, 3, 5, 7]
    )
    truth = np.array([1.0, 0.4, 0.4, 0.1])
    assert np.abs(result.theta["estimate"].values / truth - 1).max() < 0.03
    score = result.score()
    assert float(score["bridge"].mean()) < 0.12
    assert float(score["bridge"].mean()) < float(score["interpolation"].mean()) / 5
    plain = IterativeReferenceRefinement(LotkaVolterra(0.0, 0.0, 0.0, 0.0), 0.1, iterations=0).fit(
        clouds, times, holdout=[1, 3, 5, 7]
    )
    assert float(score["bridge"].mean()) < float(plain.score()["bridge"].mean()) / 5


def test_the_repressilator_is_found_from_a_start_without_dynamics():
    """β ≈ 0 and γ ≈ 0: nothing moves, and the likelihood of the bridge alone leads to a poor minimum."""
    times, truth = np.arange(9.0), np.array([10.0, 3.0, 1.0, 1.0])
    clouds = noisy(Repressilator(), truth, [1.0, 1.0, 2.0], times, 50)
    start = {"beta": 1e-5, "n": 1.0, "k": 1.0, "gamma": 1e-5}
    result = IterativeReferenceRefinement(
        Repressilator(), 0.1, start=start, n_steps=10, n_paths=50, iterations=3, standard_errors=False
    ).fit(clouds, times, holdout=[1, 3, 5, 7])
    assert np.abs(result.theta["estimate"].values / truth - 1).max() < 0.12
    score = result.score()
    assert float(score["bridge"].mean()) < 0.25
    assert float(score["bridge"].mean()) < float(score["interpolation"].mean()) / 5


@pytest.mark.slow
def test_proportional_fitting_refines_the_same_parameters():
    """The simulated bridge, without linearisation, ends at the same truth."""
    times = np.arange(7.0)
    result = IterativeReferenceRefinement(
        LotkaVolterra(0.0, 0.0, 0.0, 0.0), 0.1, bridge="ipf", iterations=1, n_steps=20, n_paths=500
    ).fit(noisy_predator_prey(times, 60), times, holdout=[1, 3, 5])
    assert np.abs(result.theta["estimate"].values / [1.0, 0.4, 0.4, 0.1] - 1).max() < 0.05
    score = result.score()
    assert float(score["bridge"].mean()) < float(score["interpolation"].mean()) / 4
    assert result.paths.sizes["time"] == 3 * 20 + 1


def test_the_moment_search_takes_drifts_that_resist_batching():
    def branching(t, x, rate=0.1, mean=0.0):
        return rate * (mean - x) if float(rate) > 0 else 0 * x

    times = [0.0, 0.5, 1.0, 2.0]
    snapshots = Snapshots.of(ornstein_uhlenbeck(times, 400), times)
    found = [
        matched_start(Family(f), snapshots, lambda x: 0.3 * torch.ones_like(x), torch.Generator().manual_seed(0), 8)
        for f in (branching, ou_drift)
    ]
    assert torch.allclose(found[1], torch.tensor([0.7, 1.5], dtype=torch.float64), atol=0.1)
    assert torch.allclose(found[0], found[1], atol=1e-3)


def test_a_library_linear_in_its_parameters_finds_the_rotation():
    rng = np.random.default_rng(3)
    times, clouds = [0.0, 0.4, 0.8, 1.2], []
    for t in times:
        x0 = np.array([2.0, 0.0]) + 0.2 * rng.normal(size=(60, 2))
        c, s = np.cos(2 * t), np.sin(2 * t)
        clouds.append(x0 @ np.array([[c, s], [-s, c]]) + 0.1 * np.sqrt(t) * rng.normal(size=(60, 2)))
    library = Library({"x": lambda s: s[:, 0], "y": lambda s: s[:, 1]}, ["x", "y"])
    result = IterativeReferenceRefinement(library, 0.1, n_steps=20, n_paths=100, standard_errors=False).fit(
        clouds, times
    )
    assert np.abs(result.theta["estimate"].values - [0, -2, 2, 0]).max() < 0.15


@pytest.mark.slow
def test_noise_may_depend_on_the_state():
    clouds = noisy_predator_prey([0.0, 1.0, 2.0], 40)
    result = IterativeReferenceRefinement(
        LotkaVolterra(1.0, 0.4, 0.4, 0.1),
        lambda x: 0.02 * x.abs() + 1e-3,
        n_steps=20,
        n_paths=100,
        standard_errors=False,
    ).fit(clouds, [0.0, 1.0, 2.0])
    assert np.abs(result.theta["estimate"].values / [1.0, 0.4, 0.4, 0.1] - 1).max() < 0.1


def test_results_are_datasets_and_repeat():
    clouds = ornstein_uhlenbeck([0.0, 1.0, 2.0], 40)
    first, second = (
        IterativeReferenceRefinement(ou_drift, 0.3, iterations=2, n_paths=50).fit(clouds, [0.0, 1.0, 2.0])
        for _ in (0, 1)
    )
    assert first.history.identical(second.history)
    assert first.paths.identical(second.paths)
    assert dict(first.paths.sizes) == {"trajectory": 200, "time": 81, "feature": 1}
    again = first.at(0.5)
    assert again.attrs["scidyn_kind"] == "snapshots"
    assert np.allclose(again["time"].values, 0.5)


def test_mistakes_are_named():
    clouds = ornstein_uhlenbeck([0.0, 1.0], 20)
    with pytest.raises(OptionError, match="sigma must be positive"):
        IterativeReferenceRefinement(ou_drift, 0.0)
    with pytest.raises(OptionError, match="no default"):
        IterativeReferenceRefinement(lambda t, x, k: k * x, 0.1)
    with pytest.raises(OptionError, match="no parameter after"):
        IterativeReferenceRefinement(lambda t, x: x, 0.1)
    with pytest.raises(OptionError, match="sigma has 2 entries"):
        IterativeReferenceRefinement(ou_drift, [0.1, 0.2]).fit(clouds, [0.0, 1.0])
    with pytest.raises(ShapeError, match="drift of shape"):
        IterativeReferenceRefinement(lambda t, x, k=1.0: k * x.sum(), 0.1).fit(clouds, [0.0, 1.0])
    with pytest.raises(DataError, match="1 snapshots"):
        IterativeReferenceRefinement(ou_drift, 0.1).fit(clouds, [0.0, 1.0], holdout=[1])
    with pytest.raises(OptionError, match="names position 7"):
        IterativeReferenceRefinement(ou_drift, 0.1).fit(clouds, [0.0, 1.0], holdout=[7])
    with pytest.raises(OptionError, match="outside its bounds"):
        IterativeReferenceRefinement(ou_drift, 0.1, start={"rate": 2.0}, bounds={"rate": (0.0, 1.0)})
    near = -torch.cdist(torch.as_tensor(clouds[0]), torch.as_tensor(clouds[1])).square() / 1e-6
    half = torch.full((20,), 0.05, dtype=torch.float64)
    with pytest.raises(FitError, match="increase sigma"):
        bridge_coupling(near, half, half, g=torch.zeros_like(half), max_iterations=3)
    fitted = IterativeReferenceRefinement(ou_drift, 0.3, iterations=0).fit(clouds, [0.0, 1.0])
    with pytest.raises(OptionError, match="fitted times"):
        fitted.at(2.0)
    with pytest.raises(DataError, match="held out"):
        fitted.score()
