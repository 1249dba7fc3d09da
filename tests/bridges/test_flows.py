"""Flows and training-free bridges against closed forms, finite differences and the Gaussian bridge."""

import numpy as np
import pytest
import torch

from scidyn.bridges import (
    FlowMatching,
    GaussianBridge,
    MixtureInterpolant,
    SinkhornBridge,
    Snapshots,
    kinetic_optimal_path,
    leave_one_out,
    schedule,
)
from scidyn.bridges.chains import Curve, couple
from scidyn.bridges.family import Family
from scidyn.bridges.ipf import IPFBridge
from scidyn.errors import DataError, NotFittedError, OptionError, ShapeError

MIXTURE = (
    [0.3, 0.7], [[-2.0], [1.0]], [[[0.2]], [[0.5]]],
    [0.6, 0.4], [[0.0], [3.0]], [[[0.3]], [[0.1]]],
)  # fmt: skip


def gaussian_clouds(n=1500, seed=0):
    """Quantiles of N(0, 1) and N(2, 1/4), shuffled: clouds with the exact moments."""
    rng = np.random.default_rng(seed)
    q = torch.distributions.Normal(0.0, 1.0).icdf((torch.arange(n) + 0.5).double() / n).numpy()
    q = q / q.std()
    return [rng.permutation(q)[:, None], 2 + 0.5 * rng.permutation(q)[:, None]]


@pytest.mark.parametrize("name", ["linear", "trigonometric", "encoding-decoding"])
def test_schedules_meet_their_ends_and_their_derivatives(name):
    make = schedule(name, noise=0.7)
    ends = make(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert torch.allclose(ends.alpha, torch.tensor([1.0, 0.0], dtype=torch.float64), atol=1e-12)
    assert torch.allclose(ends.beta, torch.tensor([0.0, 1.0], dtype=torch.float64), atol=1e-12)
    assert torch.equal(ends.gamma, torch.zeros(2, dtype=torch.float64))
    t, h = torch.tensor([0.1, 0.3, 0.7, 0.95], dtype=torch.float64), 1e-6
    c, up, down = make(t), make(t + h), make(t - h)
    assert torch.allclose(c.alpha_dot, (up.alpha - down.alpha) / (2 * h), atol=1e-7)
    assert torch.allclose(c.beta_dot, (up.beta - down.beta) / (2 * h), atol=1e-7)
    assert torch.allclose(c.gamma_rate, (up.gamma**2 - down.gamma**2) / (4 * h), atol=1e-7)


@pytest.mark.parametrize(
    ("t", "x", "b", "s"),
    [(0.2, -1, 3.204, -0.246), (0.2, 0.5, -0.178, 0.616), (0.2, 1.5, 0.637, -0.623),
     (0.6, -1, 1.193, 0.975), (0.6, 0.5, 0.472, 0.014), (0.6, 1.5, 1.582, -0.326)],
)  # fmt: skip
def test_mixture_fields_have_the_tabulated_values(t, x, b, s):
    exact = MixtureInterpolant(*MIXTURE, schedule("linear", noise=2**0.5))
    point = torch.tensor([[float(x)]], dtype=torch.float64)
    assert exact.velocity(t, point).item() == pytest.approx(b, abs=6e-4)
    assert exact.score(t, point).item() == pytest.approx(s, abs=6e-4)


@pytest.mark.parametrize("name", ["linear", "trigonometric"])
def test_mixture_density_obeys_the_transport_equation(name):
    exact = MixtureInterpolant(*MIXTURE, schedule(name, noise=0.8))
    x, h, t = torch.linspace(-3, 4, 15, dtype=torch.float64).unsqueeze(1), 1e-5, 0.37

    def density(t, x):
        return exact.log_density(t, x).exp().unsqueeze(1)

    change = (density(t + h, x) - density(t - h, x)) / (2 * h)
    flux = [density(t, p) * exact.velocity(t, p) for p in (x + h, x - h)]
    assert torch.allclose(change, -(flux[0] - flux[1]) / (2 * h), atol=1e-7)
    slope = (exact.log_density(t, x + h) - exact.log_density(t, x - h)) / (2 * h)
    assert torch.allclose(exact.score(t, x)[:, 0], slope, atol=1e-7)


def test_sinkhorn_bridge_has_the_gaussian_drift_and_cross_covariance():
    clouds = gaussian_clouds()
    bridge = SinkhornBridge(1.0).fit(clouds, [0.0, 1.0])
    exact = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1.0)
    x = torch.tensor([[-1.0], [0.0], [1.0], [2.0]], dtype=torch.float64)
    for t in (0.0, 0.3, 0.6):
        assert torch.allclose(bridge.drift(t, x), exact.drift(t, x), atol=0.03)
    ends = bridge.push(clouds[0], 0.0, 1.0)
    cross = float(((torch.as_tensor(clouds[0])) * (ends - 2.0)).mean())
    assert cross == pytest.approx((2**0.5 - 1) / 2, abs=0.04)
    middle = bridge.push(clouds[0], 0.0, 0.5)
    assert float(middle.var()) == pytest.approx(0.6660534, rel=0.08)


def test_real_time_spacing_sets_the_noise():
    """Twice the time at σ is the unit time at σ√2."""
    clouds = gaussian_clouds(400)
    x = torch.tensor([[-0.5], [0.8]], dtype=torch.float64)
    slow = SinkhornBridge(0.7).fit(clouds, [3.0, 5.0]).drift(3.5, x)
    unit = SinkhornBridge(0.7 * 2**0.5).fit(clouds, [0.0, 1.0]).drift(0.25, x)
    assert torch.allclose(2 * slow, unit, atol=1e-6)


def test_score_and_flow_matching_recover_the_gaussian_bridge():
    clouds = gaussian_clouds(800)
    flow = FlowMatching(coupling="sinkhorn", sigma=1.0, hidden=(48, 48), iterations=800, batch=256, learning_rate=4e-3)
    flow.fit(clouds, [0.0, 1.0])
    exact = GaussianBridge([0.0], [[1.0]], [2.0], [[0.25]], reference=1.0)
    for t in (0.25, 0.5, 0.75):
        mean, cov = exact.marginal(t)
        x = mean + torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64) * cov.sqrt()
        for ours, theirs in ((flow.drift, exact.drift), (flow.velocity, exact.velocity), (flow.score, exact.score)):
            assert float((ours(t, x) - theirs(t, x)).abs().max()) < 0.3
    for g in (0.0, 1.0):
        ends = flow.push(clouds[0], 0.0, 1.0, diffusion=g)
        assert float(ends.mean()) == pytest.approx(2.0, abs=0.1)
        assert float(ends.std()) == pytest.approx(0.5, abs=0.1)
        cross = float((torch.as_tensor(clouds[0]) * (ends - ends.mean())).mean())
        assert cross == pytest.approx(0.5 if g == 0 else (2**0.5 - 1) / 2, abs=0.08)


def test_flow_matching_with_the_product_coupling_has_the_rectified_field():
    """N(0, 1) to N(3, 1/4): v = 3 + ((t/4 − (1 − t)) / ((1 − t)² + t²/4)) (x − 3t)."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(2000, 1)), 3 + 0.5 * rng.normal(size=(2000, 1))]
    flow = FlowMatching(coupling="independent", hidden=(48, 48), iterations=800, batch=512, learning_rate=4e-3)
    flow.fit(clouds, [0.0, 1.0])
    for t in (0.2, 0.5, 0.8):
        spread = ((1 - t) ** 2 + t**2 / 4) ** 0.5
        x = 3 * t + spread * torch.tensor([[-1.0], [0.0], [1.0]], dtype=torch.float64)
        exact = 3 + (t / 4 - (1 - t)) / spread**2 * (x - 3 * t)
        assert float((flow.velocity(t, x) - exact).abs().max()) < 0.3


@pytest.mark.slow
def test_reflow_straightens_and_keeps_the_ends():
    """N(0, 1) to N(3, 1/4), product coupling: ∫E|v|² − E|Z1 − Z0|² = 9.4646 − 9.25; after reflow it is zero."""
    rng = np.random.default_rng(0)
    clouds = [rng.normal(size=(2000, 1)), 3 + 0.5 * rng.normal(size=(2000, 1))]
    settings = {"hidden": (48, 48), "iterations": 800, "batch": 512, "learning_rate": 4e-3}
    first = FlowMatching(coupling="independent", **settings).fit(clouds, [0.0, 1.0])
    assert first.straightness(clouds[0]) == pytest.approx(0.2146, abs=0.06)
    second = first.reflow(clouds[0])
    assert second.straightness(clouds[0]) < 0.03
    ends = second.push(clouds[0], 0.0, 1.0)
    assert float(ends.std()) == pytest.approx(0.5, abs=0.06)
    one_step = torch.as_tensor(clouds[0]) + second.velocity(0.0, torch.as_tensor(clouds[0]))
    assert float((one_step - ends).square().mean()) < 0.01


def test_kinetic_optimal_path_of_two_points_and_of_a_normal_law():
    path = kinetic_optimal_path([[-1.0], [1.0]], draws=20000)
    assert path.angle == pytest.approx(0.69126, abs=4e-3)
    assert path.energy == pytest.approx(0.4591, abs=5e-3)
    a, m = path(0.5)
    assert (float(a), float(m)) == (pytest.approx(0.8847, abs=5e-3), pytest.approx(0.3203, abs=5e-3))
    ends = path(np.array([0.0, 1.0]))
    assert np.allclose(ends, [[0.0, 1.0], [1.0, 0.0]], atol=1e-9)
    normal = np.random.default_rng(0).normal(size=(400, 1))
    normal = (normal - normal.mean()) / normal.std()
    assert kinetic_optimal_path(normal, draws=1000).energy < 0.05
    with pytest.raises(DataError, match="centre it"):
        kinetic_optimal_path(normal + 1)


def test_a_flow_goes_back_to_where_it_came_from():
    clouds = gaussian_clouds(100)
    flow = FlowMatching(hidden=(16,), iterations=100).fit([*clouds, clouds[0] + 4], [0.0, 1.0, 3.0])
    there = flow.push(clouds[0], 0.0, 3.0)
    assert torch.allclose(flow.push(there, 3.0, 0.0), torch.as_tensor(clouds[0]), atol=1e-5)


def test_curves_pass_through_their_points_and_momentum_has_no_corner():
    times = torch.tensor([0.0, 1.0, 2.5, 4.0], dtype=torch.float64)
    for kind in ("linear", "momentum"):
        curve = Curve(times, kind)
        assert np.allclose(curve.weights(times.numpy())[0], np.eye(4), atol=1e-8)
        t = np.linspace(0.1, 3.9, 23)
        w, dw = curve.weights(t)
        assert np.allclose(w.sum(axis=1), 1.0)
        step = (curve.weights(t + 1e-6)[0] - curve.weights(t - 1e-6)[0]) / 2e-6
        assert np.allclose(dw, step, atol=1e-5)
    before, after = (curve.weights(np.array([1.0 + e]))[1] for e in (-1e-7, 1e-7))
    assert np.allclose(before, after, atol=1e-5)


def test_exact_chains_keep_optimal_partners():
    a = torch.arange(6.0, dtype=torch.float64).unsqueeze(1)
    chains = couple(Snapshots.of([a, a + 10, a + 20], [0, 1, 2]), "exact", generator=torch.Generator().manual_seed(0))
    for seed in range(4):
        x, y, z = chains.draw(6, torch.Generator().manual_seed(seed))
        assert torch.equal(y, x + 10)
        assert torch.equal(z, x + 20)


@pytest.mark.slow
def test_iterative_proportional_fitting_approaches_the_gaussian_bridge():
    clouds = gaussian_clouds(600)
    family = Family(lambda t, x, k=0.0: k * x)
    bridge = IPFBridge.solve(
        Snapshots.of(clouds, [0.0, 1.0]), family, family.start, lambda x: torch.ones_like(x),
        n_paths=1500, n_steps=25, generator=torch.Generator().manual_seed(0), rounds=6,
    )  # fmt: skip
    _, path, _ = bridge.pairs(0, 4000, 25, torch.Generator().manual_seed(1))
    x0, x1 = path[:, 0, 0], path[:, -1, 0]
    assert float(x1.mean()) == pytest.approx(2.0, abs=0.08)
    assert float(x1.var()) == pytest.approx(0.25, abs=0.08)
    assert float(((x0 - x0.mean()) * (x1 - x1.mean())).mean()) == pytest.approx((2**0.5 - 1) / 2, abs=0.06)


def test_leave_one_out_never_shows_the_held_out_snapshot():
    seen = []

    class Spy:
        def fit(self, snapshots):
            seen.append(snapshots.times.tolist())
            return self

        def push(self, x, start, stop):
            return x + (stop - start)

    rng = np.random.default_rng(0)
    clouds = [k + 0.2 * rng.normal(size=(30 + k, 2)) for k in range(4)]
    table = leave_one_out(clouds, [0, 1, 2, 3], {"spy": lambda seed: Spy()}, seeds=2, cells=25)
    assert seen == [[0, 2, 3], [0, 1, 3]] * 2
    assert dict(table.sizes) == {"model": 5, "start": 2, "time": 2, "seed": 2}
    mean = table["distance"].mean(["time", "seed"]).sel(start="one_step")
    assert float(mean.sel(model="spy")) < 1.5 * float(mean.sel(model="floor"))
    assert float(mean.sel(model="previous")) == pytest.approx(2**0.5, rel=0.1)
    assert table.attrs["cells"] == [25, 25, 25, 25]


def test_mistakes_are_named():
    clouds = gaussian_clouds(20)
    with pytest.raises(OptionError, match="needs sigma > 0"):
        FlowMatching(coupling="sinkhorn")
    with pytest.raises(OptionError, match="Did you mean 'exact'"):
        FlowMatching(coupling="exakt")
    with pytest.raises(NotFittedError):
        FlowMatching().velocity(0.0, torch.zeros(1, 1))
    flow = FlowMatching(hidden=(8,), iterations=5).fit(clouds, [0.0, 1.0])
    with pytest.raises(ShapeError, match=r"\(cell, 1\)"):
        flow.velocity(0.0, torch.zeros(1, 3))
    with pytest.raises(OptionError, match="only with sigma"):
        flow.score(0.0, torch.zeros(1, 1))
    with pytest.raises(OptionError, match="forward in time"):
        flow.push(clouds[0], 1.0, 0.0, diffusion=1.0)
    with pytest.raises(DataError, match=r"2 snapshots .* at least 3"):
        leave_one_out(clouds, [0, 1])
    with pytest.raises(OptionError, match="name of a baseline"):
        leave_one_out([*clouds, clouds[0]], [0, 1, 2], {"floor": lambda seed: None})
