"""What cannot be fitted is refused before any work, in one sentence that names it."""

import numpy as np
import pytest

import scidyn
from scidyn.data import from_arrays
from scidyn.errors import DataError, NonFiniteError, OptionError, SplitError, TimeGridError, UnitsError
from scidyn.sysid import HybridODE, MechanisticODE, NeuralODE, backtest
from scidyn.systems import Lorenz63, LotkaVolterra


@pytest.fixture(autouse=True)
def no_work(monkeypatch):
    """Any solve is work."""

    def refuse(*args, **options):
        raise AssertionError("a solve was started")

    monkeypatch.setattr("scidyn.sysid.shooting.solve_sensitivities", refuse)
    monkeypatch.setattr("scidyn.sysid.shooting.solve_ode", refuse)
    monkeypatch.setattr("scidyn.sysid.network_field.solve_ode", refuse)


MODELS = [MechanisticODE(LotkaVolterra()), NeuralODE(), HybridODE(LotkaVolterra())]


@pytest.fixture(params=MODELS, ids=["mechanistic", "neural", "hybrid"])
def model(request):
    return request.param


def test_times_units_and_masks(model, record):
    shuffled = record.isel(time=[0, 2, 1, *range(3, 21)])
    with pytest.raises(TimeGridError, match="goes back from 1902"):
        model.fit(shuffled)
    doubled = record.isel(time=[0, 1, 1, 2, 3, 4, 5, 6, 7, 8, 9])
    with pytest.raises(TimeGridError, match="may not repeat"):
        model.fit(doubled)
    bare = record.copy()
    bare["hare"] = bare["hare"].assign_attrs(units="")
    with pytest.raises(UnitsError, match="'hare'"):
        model.fit(bare)
    lying = record.copy()
    lying["hare"] = lying["hare"].where(lying["time"] != 1905)
    lying["mask"] = ("time", np.ones(21, dtype=bool))
    with pytest.raises(NonFiniteError, match=r"hare\[5\] is NaN but mask says"):
        model.fit(lying)


def test_controls(model, record):
    driven = record.assign(light=record["hare"].assign_attrs(role="control", units="1"))
    with pytest.raises(DataError, match="'light' has the role 'control'"):
        model.fit(driven)


def test_options(record):
    for bad in (MechanisticODE(LotkaVolterra(), noise="log-normal"), NeuralODE(noise="log-normal")):
        with pytest.raises(OptionError, match="Did you mean 'lognormal'"):
            bad.fit(record)
    with pytest.raises(OptionError, match="confidence"):
        MechanisticODE(LotkaVolterra(), confidence=90).fit(record)
    with pytest.raises(OptionError, match="system must be"):
        MechanisticODE("lotka-volterra").fit(record)
    with pytest.raises(OptionError, match="hidden"):
        NeuralODE(hidden=32).fit(record)
    with pytest.raises(OptionError, match="Did you mean 'direct'"):
        NeuralODE(adjoint="dirct").fit(record)
    with pytest.raises(OptionError, match="noise_std has no entry for 'lynx'"):
        MechanisticODE(LotkaVolterra(), noise_std={"hare": 1.0}).fit(record)


def test_variables(record):
    with pytest.raises(DataError, match=r"3 states .* 2 variables"):
        MechanisticODE(Lorenz63()).fit(record)
    with pytest.raises(OptionError, match="Did you mean 'prey'"):
        MechanisticODE(LotkaVolterra(), variables={"pray": "hare"}).fit(record)
    with pytest.raises(OptionError, match="Did you mean 'hare'"):
        MechanisticODE(LotkaVolterra(), variables={"prey": "hares"}).fit(record)
    with pytest.raises(DataError, match="every state"):
        HybridODE(LotkaVolterra(), variables={"prey": "hare"}).fit(record[["hare"]])


def test_too_short(record):
    with pytest.raises(DataError, match="6 observed values for 6 unknowns"):
        MechanisticODE(LotkaVolterra()).fit(record.isel(time=slice(0, 3)))
    for model in (NeuralODE(), HybridODE(LotkaVolterra())):
        with pytest.raises(DataError, match="needs at least 8"):
            model.fit(record.isel(time=slice(0, 3)))


def test_not_positive(record):
    zero = record.copy()
    zero["lynx"] = zero["lynx"].where(zero["time"] != 1903, 0.0)
    with pytest.raises(NonFiniteError, match="'lynx' is 0 at time 1903"):
        MechanisticODE(LotkaVolterra(), noise="lognormal").fit(zero)


def test_empty_validation(record):
    with pytest.raises(SplitError, match="leaves 0 times"):
        NeuralODE(validation=0.01).fit(record)
    late = record.copy()
    late["hare"] = late["hare"].where(late["time"] < 1916)
    late["lynx"] = late["lynx"].where(late["time"] < 1916)
    with pytest.raises(SplitError, match="with 0 observed values"):
        NeuralODE().fit(late)
    with pytest.raises(OptionError, match="validation"):
        NeuralODE(validation=1.0).fit(record)


def test_backtest_split(record):
    for at in (1800, 2000):
        with pytest.raises(SplitError, match=f"at={at}"):
            backtest(NeuralODE(), record, at=at)


def test_a_failed_fit_keeps_the_old_results_out(record):
    t = np.arange(5.0)
    ds = from_arrays(np.ones((5, 2)), t, names=["hare", "lynx"], units=["1", "1"], time_units="year")
    model = NeuralODE(validation=0.01)
    with pytest.raises(scidyn.errors.SplitError):
        model.fit(ds)
    assert not model.is_fitted
