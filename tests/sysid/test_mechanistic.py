"""Mechanistic fits against published values, closed forms, SciPy and simulated truth."""

import math

import numpy as np
import pytest
import torch
from mechanisms import Decay, TwoRates
from scipy import stats
from scipy.integrate import solve_ivp
from scipy.optimize import least_squares

from scidyn.data import from_arrays
from scidyn.errors import FitWarning
from scidyn.sysid import MechanisticODE
from scidyn.systems import Lorenz63, LotkaVolterra, VanDerPol

BAYES = {"alpha": 0.55, "beta": 0.028, "gamma": 0.80, "delta": 0.024}
"""Posterior means of the literature's log-normal fit of the record."""
LEAST_SQUARES = {"alpha": (0.540, 0.060), "beta": (0.0272, 0.0038), "gamma": (0.796, 0.084), "delta": (0.0237, 0.0033)}
ADDITIVE = {"alpha": 0.481, "beta": 0.0248, "gamma": 0.926, "delta": 0.0275}


def units_in_last_place(text_value):
    """Half a unit of the last printed digit."""
    return 0.5 * 10 ** -len(str(text_value).split(".")[1])


def test_lynx_hare_from_bad_values_lands_on_the_published_fit(lynx_hare_fit):
    table = lynx_hare_fit.parameters_
    assert lynx_hare_fit.noise_model_ == "lognormal"
    for name, (estimate, error) in LEAST_SQUARES.items():
        row = table.sel(parameter=name)
        assert float(row["estimate"]) == pytest.approx(estimate, abs=1.5 * 10 ** -len(str(estimate).split(".")[1]))
        assert float(row["stderr"]) == pytest.approx(error, rel=0.05)
        assert float(row["lower"]) < BAYES[name] < float(row["upper"])
        assert float(row["lower"]) < float(row["estimate"]) < float(row["upper"])
    assert table["units"].sel(parameter="beta").item() == "1/(year * thousand pelts)"


def test_lynx_hare_additive_noise(record):
    model = MechanisticODE(LotkaVolterra(3.0, 1.0, 0.1, 2.0), noise="normal", profile=False).fit(record)
    for name, value in ADDITIVE.items():
        got = float(model.parameters_["estimate"].sel(parameter=name))
        assert got == pytest.approx(value, abs=1.01 * units_in_last_place(value) + 1e-4)


def test_agrees_with_scipy(record, lynx_hare_fit):
    t = record["time"].values
    data = np.log(np.column_stack([record["hare"].values, record["lynx"].values]))

    def residuals(p):
        a, b, c, d, u, v = np.exp(p)
        y = solve_ivp(
            lambda s, y: [a * y[0] - b * y[0] * y[1], d * y[0] * y[1] - c * y[1]],
            (t[0], t[-1]), [u, v], t_eval=t, rtol=1e-9, atol=1e-9, method="DOP853",
        ).y.T  # fmt: skip
        return (np.log(y) - data).ravel()

    expected = least_squares(residuals, np.log([0.5, 0.03, 0.8, 0.02, 30, 5]))
    shared = MechanisticODE(LotkaVolterra(), shared_noise=True, profile=False, rtol=1e-9, starts=2).fit(record)
    np.testing.assert_allclose(np.log(shared.parameters_["estimate"]), expected.x[:4], atol=1e-4)
    variance = 2 * expected.cost / (42 - 6)
    covariance = variance * np.linalg.inv(expected.jac.T @ expected.jac)
    errors = shared.parameters_["stderr"] / shared.parameters_["estimate"]
    np.testing.assert_allclose(errors, np.sqrt(np.diag(covariance))[:4], rtol=1e-3)


def test_units_do_not_matter(record, lynx_hare_fit):
    pelts = record.copy()
    for name in ("hare", "lynx"):
        pelts[name] = (record[name] * 1000).assign_attrs(units="pelts")
    model = MechanisticODE(LotkaVolterra(), profile=False, starts=2).fit(pelts)
    scale = np.array([1, 1000, 1, 1000])
    expected = lynx_hare_fit.parameters_["estimate"]
    np.testing.assert_allclose(model.parameters_["estimate"] * scale, expected, rtol=1e-4)
    assert model.parameters_["units"].values[1] == "1/(year * pelts)"


def decay_record(seed=0, n=15, sigma=0.1):
    t = np.linspace(0, 4, n)
    noise = np.random.default_rng(seed).normal(size=n)
    return t, np.exp(-0.6 * t + math.log(3) + sigma * noise)


@pytest.mark.parametrize("known", [True, False])
def test_profile_interval_of_a_linear_model_is_the_exact_one(known):
    """log a = log a0 − k t is linear regression: the profile must give the textbook interval."""
    t, y = decay_record()
    ds = from_arrays(y, t, names=["amount"], units=["mg"], time_units="h")
    model = MechanisticODE(Decay(20.0), noise_std=0.1 if known else None, confidence=0.95, rtol=1e-10).fit(ds)
    line = stats.linregress(t, np.log(y))
    width = line.stderr * stats.t.ppf(0.975, 13)
    if known:
        width = 0.1 / np.sqrt(((t - t.mean()) ** 2).sum()) * stats.norm.ppf(0.975)
    row = model.parameters_.sel(parameter="rate")
    assert float(row["estimate"]) == pytest.approx(-line.slope, rel=1e-6)
    assert float(row["stderr"]) == pytest.approx(line.stderr if not known else width / stats.norm.ppf(0.975), rel=1e-5)
    assert float(row["upper"]) == pytest.approx(-line.slope + width, rel=1e-3)
    assert float(row["lower"]) == pytest.approx(-line.slope - width, rel=1e-3)
    if not known:
        residual = np.log(y) - line.intercept - line.slope * t
        assert float(model.noise_std_[0]) == pytest.approx(np.sqrt((residual**2).sum() / 13), rel=1e-5)


def test_a_parameter_the_data_do_not_bound_is_said_so():
    t, y = decay_record()
    ds = from_arrays(y, t, names=["amount"], units=["mg"], time_units="h")
    with pytest.warns(FitWarning, match="do not bound one, two"):
        model = MechanisticODE(TwoRates(), starts=2).fit(ds)
    total = float(model.parameters_["estimate"].sum())
    assert total == pytest.approx(-stats.linregress(t, np.log(y)).slope, rel=1e-4)
    assert bool(np.isinf(model.parameters_["stderr"]).all())
    assert bool((model.parameters_["lower"] == 0).all())


def test_recovers_the_truth_from_many_irregular_trajectories_with_gaps(predator_prey):
    truth, ds = predator_prey
    model = MechanisticODE(LotkaVolterra(), confidence=0.99).fit(ds)
    for name, value in truth.values.items():
        row = model.parameters_.sel(parameter=name)
        assert float(row["lower"]) < value < float(row["upper"])
        assert float(row["estimate"]) == pytest.approx(value, rel=0.1)
    np.testing.assert_allclose(model.noise_std_, 0.1, rtol=0.35)
    assert model.initial_.sizes == {"trajectory": 3, "state": 2}
    assert model.fitted_["u"].dims == ("trajectory", "obs")
    assert np.isnan(model.fitted_["u"].values[2, 18:]).all()
    future = model.predict([12.5, 14.0], interval=0.9)
    assert future["u"].dims == ("trajectory", "time")
    assert bool((future["u_lower"] < future["u"]).all())


def test_noise_free_oscillations_are_recovered():
    for system, start, end in ((VanDerPol(1.3), VanDerPol(4.0), 12.0), (Lorenz63(), Lorenz63(6.0, 20.0, 1.5), 2.0)):
        ds = system.simulate(np.linspace(0, end, 60), rtol=1e-10, atol=1e-12)
        model = MechanisticODE(start, profile=False, rtol=1e-9).fit(ds)
        assert model.noise_model_ == "normal"
        np.testing.assert_allclose(model.parameters_["estimate"], list(system.values.values()), rtol=1e-5)


def test_a_hidden_state_and_variables_by_name(record):
    swapped = record[["lynx", "hare"]]
    model = MechanisticODE(LotkaVolterra(), variables={"prey": "hare", "predator": "lynx"}, profile=False, starts=2)
    model = model.fit(swapped)
    assert float(model.parameters_["estimate"].sel(parameter="alpha")) == pytest.approx(0.540, abs=2e-3)
    t = np.linspace(0, 10, 80)
    ds = VanDerPol(1.3).simulate(t)[["x"]]
    hidden = MechanisticODE(VanDerPol(1.0), variables={"x": "x"}, profile=False, starts=2).fit(ds)
    assert float(hidden.parameters_["estimate"][0]) == pytest.approx(1.3, rel=1e-3)
    assert list(hidden.predict([11.0]).data_vars) == ["x"]
    assert hidden.states_.values.tolist() == [0]
    assert model.states_.sel(variable=["lynx", "hare"]).values.tolist() == [1, 0]


def test_bands_are_those_of_linear_regression():
    t, y = decay_record(n=30)
    ds = from_arrays(y, t, names=["amount"], units=["mg"], time_units="h")
    model = MechanisticODE(Decay(), profile=False).fit(ds)
    line = stats.linregress(t, np.log(y))
    s = float(model.noise_std_[0])
    at = np.array([1.0, 5.0, 8.0])
    half = stats.norm.ppf(0.95) * s * np.sqrt(1 + 1 / 30 + (at - t.mean()) ** 2 / ((t - t.mean()) ** 2).sum())
    band = model.predict(at, interval=0.9)
    centre = line.intercept + line.slope * at
    np.testing.assert_allclose(np.log(band["amount"]), centre, atol=1e-5)
    np.testing.assert_allclose(np.log(band["amount_upper"]) - centre, half, rtol=0.06)
    np.testing.assert_allclose(centre - np.log(band["amount_lower"]), half, rtol=0.06)


def test_residuals_history_and_equations(record, lynx_hare_fit):
    m = lynx_hare_fit
    np.testing.assert_allclose(m.residuals_["hare"], np.log(record["hare"]) - np.log(m.fitted_["hare"]), atol=1e-12)
    assert m.history_["loss"].values[-1] == m.history_["loss"].values.min()
    assert "α = 0.54" in m.equations()
    curve = m.profiles_.sel(parameter="alpha")
    best = curve["value"].values[np.nanargmin(curve["deviance"].values)]
    assert best == pytest.approx(float(m.parameters_["estimate"].sel(parameter="alpha")))
    assert np.nanmax(curve["deviance"]) > m.profiles_.attrs["threshold"]
    rate = m.vector_field(0.0, [30.0, 5.0])
    a, b, g, d = m.parameters_["estimate"].values
    torch.testing.assert_close(rate, torch.tensor([a * 30 - b * 150, d * 150 - g * 5], dtype=torch.float64))


@pytest.mark.slow
def test_intervals_cover_as_often_as_they_say():
    """300 noisy decays with 8 points: coverage of the 90 % interval within three binomial standard errors."""
    inside = 0
    for seed in range(300):
        t, y = decay_record(seed, n=8, sigma=0.3)
        ds = from_arrays(y, t, names=["amount"], units=["mg"], time_units="h")
        row = MechanisticODE(Decay(), starts=2, rtol=1e-6).fit(ds).parameters_.sel(parameter="rate")
        inside += float(row["lower"]) <= 0.6 <= float(row["upper"])
    assert abs(inside / 300 - 0.9) < 3 * math.sqrt(0.9 * 0.1 / 300)
