"""The named equations against closed forms, SciPy, and their own bookkeeping of units."""

import math

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp

from scidyn.errors import OptionError, ShapeError
from scidyn.systems import Lorenz63, LotkaVolterra, Repressilator, VanDerPol

SYSTEMS = [LotkaVolterra, Lorenz63, Repressilator, VanDerPol]


@pytest.mark.parametrize("system", SYSTEMS)
def test_batched_parameters_and_states_agree_with_one_at_a_time(system):
    generator = torch.Generator().manual_seed(0)
    one = system()
    y = torch.rand(7, len(one.states), generator=generator, dtype=torch.float64) + 0.5
    theta = one.theta() * (0.5 + torch.rand(7, len(one.parameters), generator=generator, dtype=torch.float64))
    t = torch.zeros((), dtype=torch.float64)
    together = one(t, y, theta)
    alone = torch.stack([one(t, y[k], theta[k]) for k in range(7)])
    assert together.shape == y.shape
    assert torch.equal(together, alone)


def test_lotka_volterra_rests_at_its_fixed_point_and_keeps_its_invariant():
    system = LotkaVolterra(0.55, 0.028, 0.80, 0.024)
    rest = torch.tensor([0.80 / 0.024, 0.55 / 0.028], dtype=torch.float64)
    assert system(torch.tensor(0.0), rest).abs().max() < 1e-12
    orbit = system.simulate(np.linspace(0, 40, 81), (30.0, 5.0), rtol=1e-10, atol=1e-12)
    u, v = orbit["prey"].values, orbit["predator"].values
    invariant = 0.024 * u - 0.80 * np.log(u) + 0.028 * v - 0.55 * np.log(v)
    assert np.ptp(invariant) < 1e-8


def test_lorenz_has_its_three_fixed_points():
    c = math.sqrt(8 / 3 * 27)
    points = torch.tensor([[0, 0, 0], [c, c, 27], [-c, -c, 27]], dtype=torch.float64)
    assert Lorenz63()(torch.tensor(0.0), points).abs().max() < 1e-12


def test_van_der_pol_matches_scipy_and_its_known_period():
    times = np.linspace(0, 20, 41)
    ours = VanDerPol(mu=5.0).simulate(times, (2.0, 0.0), rtol=1e-9, atol=1e-11)
    reference = solve_ivp(
        lambda t, y: [y[1], 5 * (1 - y[0] ** 2) * y[1] - y[0]],
        (0, 20), [2.0, 0.0], method="DOP853", t_eval=times, rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    assert np.abs(ours["x"].values - reference.y[0]).max() < 1e-6
    # the limit cycle's period at mu = 5 is 11.612 (published tables of the Van der Pol equation)
    fine = VanDerPol(mu=5.0).simulate(np.linspace(0, 60, 24001), rtol=1e-8, atol=1e-10)["x"].values
    rising = np.flatnonzero((fine[:-1] < 0) & (fine[1:] >= 0)) * 60 / 24000
    assert np.diff(rising)[-1] == pytest.approx(11.612, abs=0.01)


def test_repressilator_rests_at_its_fixed_point_and_oscillates_as_scipy_finds():
    # β / (1 + x^n) = γ x has the root 2 for β = 18, n = 3, k = γ = 1
    system = Repressilator(18.0, 3.0, 1.0, 1.0)
    assert system(torch.tensor(0.0), torch.full((3,), 2.0, dtype=torch.float64)).abs().max() < 1e-12
    times = np.linspace(0, 10, 21)
    ours = Repressilator().simulate(times, (1.0, 1.0, 2.0), rtol=1e-9, atol=1e-11)
    reference = solve_ivp(
        lambda t, y: 10 / (1 + np.roll(y, 1) ** 3) - y,
        (0, 10), [1.0, 1.0, 2.0], method="DOP853", t_eval=times, rtol=1e-12, atol=1e-12,
    )  # fmt: skip
    assert np.abs(ours["x2"].values - reference.y[1]).max() < 1e-6


def test_parameter_units_follow_the_data():
    units = LotkaVolterra().parameter_units("year", ["hares", "lynx"])
    assert units == ("1/year", "1/(year * lynx)", "1/year", "1/(year * hares)")
    assert LotkaVolterra().parameter_units("h", ["mg/L", "1"]) == ("1/h", "1/h", "1/h", "1/(h * (mg/L))")


def test_simulate_keeps_names_units_and_trajectories():
    many = LotkaVolterra().simulate(
        [0.0, 1.0], [[30.0, 4.0], [20.0, 9.0], [10.0, 5.0]], time_units="year", units=["hares", "lynx"]
    )
    assert dict(many.sizes) == {"trajectory": 3, "time": 2}
    assert many["prey"].attrs["units"] == "hares"
    assert many["time"].attrs["units"] == "year"


def test_mistakes_are_named():
    with pytest.raises(OptionError, match="Did you mean 'alpha'"):
        LotkaVolterra(alpa=1.0)
    with pytest.raises(OptionError, match="finite number"):
        LotkaVolterra(alpha=float("nan"))
    with pytest.raises(OptionError, match="takes 1 parameters"):
        VanDerPol(1.0, 2.0)
    with pytest.raises(ShapeError, match="2 states"):
        LotkaVolterra()(torch.tensor(0.0), torch.zeros(3))
