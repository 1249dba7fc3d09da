"""Corruptions against the Kalman filter, whose predictive variance is known in closed form."""

import json

import numpy as np
import pytest

import scidyn
from scidyn.data.corruptions import (
    ActuatorNoise,
    Blackout,
    HideState,
    ProcessNoise,
    Quantise,
    RegimeSwitch,
    SensorNoise,
    corrupt,
    robustness_report,
    simulate_corrupted,
)
from scidyn.errors import DataError, OptionError, ShapeError

A = np.array([[0.95, 0.2], [-0.2, 0.95]])
AFTER = np.array([[0.6, 0.0], [0.0, 0.6]])
B = np.array([[0.0], [1.0]])
Q, R = 0.05**2, 0.2**2
QUIET = Q * np.eye(2)
ROWS, STEPS = 400, 60
TIMES = np.arange(float(STEPS))
NAMES = ("p", "q")


def law(matrix):
    return lambda x, u, t, h: x @ matrix.T + u @ B.T


def simulated(*corruptions, laws=(A,), process=Q, seed=0):
    kinds = [ProcessNoise(process**0.5), *corruptions]
    wanted = np.sin(TIMES)[None, :, None].repeat(ROWS, 0)
    return simulate_corrupted(
        [law(m) for m in laws], np.zeros((ROWS, 2)), TIMES, kinds, controls=wanted,
        names=NAMES, units=["m", "m"], time_units="s", seed=seed,
    )  # fmt: skip


def kalman(ds, *, matrix=lambda k: A, process=QUIET, sensor=R, seen=(0, 1)):
    """One-step predictions of the exact filter; readings that are missing are skipped."""
    names = [NAMES[k] for k in seen]
    y = np.stack([ds[n].values for n in names], -1)
    observe = np.eye(2)[list(seen)]
    mean, cov = np.zeros((ROWS, 2)), np.zeros((ROWS, 2, 2))
    means, variances = np.full(y.shape, np.nan), np.full(y.shape, np.nan)
    for k in range(STEPS):
        if k:
            step = matrix(k - 1)
            mean = mean @ step.T + np.sin(TIMES[k - 1]) * B[:, 0]
            cov = step @ cov @ step.T + process
        innovation = observe @ cov @ observe.T + sensor * np.eye(len(seen))
        means[:, k], variances[:, k] = mean @ observe.T, np.diagonal(innovation, axis1=1, axis2=2)
        here = np.isfinite(y[:, k])
        for j in range(len(seen)):  # one reading after another, which is exact for independent errors
            s = np.einsum("rij,i,j->r", cov, observe[j], observe[j]) + sensor
            gain = cov @ observe[j] / s[:, None] * here[:, j, None]
            mean = mean + gain * np.nan_to_num(y[:, k, j] - mean @ observe[j])[:, None]
            cov = cov - np.einsum("ri,rj->rij", gain, cov @ observe[j])
    pack = {n: (("trajectory", "time"), means[..., j], {"units": "m"}) for j, n in enumerate(names)}
    spread = {n: (("trajectory", "time"), variances[..., j], {"units": "m"}) for j, n in enumerate(names)}
    return ds[names].assign(pack), ds[names].assign(spread)


CASES = {
    "sensor": ((SensorNoise(R**0.5),), (A,), {}),
    "actuator": ((ActuatorNoise(0.3), SensorNoise(R**0.5)), (A,), {"process": Q * np.eye(2) + 0.3**2 * B @ B.T}),
    "process": ((ProcessNoise(0.3), SensorNoise(R**0.5)), (A,), {"process": (Q + 0.3**2) * np.eye(2)}),
    "switch": ((RegimeSwitch(at=20.0), SensorNoise(R**0.5)), (A, AFTER), {"matrix": lambda k: AFTER if k >= 20 else A}),
    "quantised": ((Quantise(0.1), SensorNoise(R**0.5)), (A,), {"sensor": R + 0.1**2 / 12}),
    "blackout": ((SensorNoise(R**0.5), Blackout(0.4)), (A,), {}),
    "blocks": ((SensorNoise(R**0.5), Blackout(0.3, "block", length=5)), (A,), {}),
    "hidden": ((SensorNoise(R**0.5), HideState(["q"])), (A,), {"seen": (0,)}),
}


@pytest.mark.parametrize("case", CASES)
def test_the_exact_filter_knows_its_errors(case):
    kinds, laws, truth = CASES[case]
    ds = simulated(*kinds, laws=laws)
    report = robustness_report(lambda record: kalman(record, **truth), {case: ds})
    assert abs(report["variance_ratio"] - 1).max() < 0.02
    assert abs(report["coverage"] - 0.95).max() < 0.01


def test_a_filter_that_does_not_know_is_found_out():
    records = {case: simulated(*kinds, laws=laws) for case, (kinds, laws, _) in CASES.items() if case != "hidden"}
    report = robustness_report(kalman, records)["variance_ratio"]
    for case in ("actuator", "process", "switch"):
        assert float(report.sel(corruption=case).min()) < 0.9, case
    assert abs(report.sel(corruption="sensor") - 1).max() < 0.02

    def certain(ds):
        mean, variance = kalman(ds)
        return mean, variance * 0

    report = robustness_report(certain, {"sensor": records["sensor"]})
    assert float(report["variance_ratio"].max()) == 0
    assert float(report["coverage"].max()) == 0


def test_each_kind_does_what_it_says():
    y = np.zeros((200, 500, 1))
    ds = scidyn.data.from_arrays(y + 2.0, np.arange(500), names=["a"], units=["m"], time_units="s")
    noisy = corrupt(ds, [SensorNoise(0.5)], seed=1)["a"].values - 2
    assert noisy.std() == pytest.approx(0.5, rel=0.01)
    relative = corrupt(ds, [SensorNoise(0.1, relative=True)], seed=1)["a"].values - 2
    assert relative.std() == pytest.approx(0.2, rel=0.01)
    single = np.isnan(corrupt(ds, [Blackout(0.3)], seed=1)["a"].values)
    assert single.mean() == pytest.approx(0.3, abs=0.01)
    block = np.isnan(corrupt(ds, [Blackout(0.3, "block", length=20)], seed=1)["a"].values)
    assert block.mean() == pytest.approx(0.3, abs=0.02)
    starts = (np.diff(block.astype(int), axis=1) == 1).sum()
    assert block.sum() / starts > 18
    assert scidyn.data.validate(corrupt(ds, [Blackout(0.3)], seed=1))


def test_random_switches_come_at_their_rate():
    ds = simulate_corrupted(
        [lambda x, u, t, h: x, lambda x, u, t, h: x + h], np.zeros((4000, 1)), np.arange(0, 10, 0.1),
        [RegimeSwitch(rate=0.2)], names=["x"], units=["1"], time_units="s", seed=3,
    )  # fmt: skip
    switched = float((ds["x"].isel(time=-1) > 0).mean())
    assert switched == pytest.approx(1 - np.exp(-0.2 * 9.9), abs=0.02)


def test_seeds_and_notes():
    ds = scidyn.datasets.load("lynx_hare")
    kinds = [SensorNoise(1.0), Blackout(0.2)]
    first, second = corrupt(ds, kinds, seed=4), corrupt(ds, kinds, seed=4)
    assert first.identical(second)
    assert not first.identical(corrupt(ds, kinds, seed=5))
    alone = corrupt(ds, kinds[:1], seed=4)
    both = first["hare"].notnull()
    assert np.array_equal(first["hare"].values[both], alone["hare"].values[both])  # adding one leaves the other
    notes = json.loads(first.attrs["corruptions"])
    assert notes == [{"seed": 4, "kinds": [k.describe() for k in kinds]}]
    assert notes[0]["kinds"][0] == {"kind": "SensorNoise", "std": 1.0, "relative": False}
    assert first["hare"].attrs == ds["hare"].attrs
    assert ds.identical(scidyn.datasets.load("lynx_hare"))


def test_refusals():
    ds = scidyn.datasets.load("lynx_hare")
    with pytest.raises(OptionError, match="ProcessNoise acts inside the dynamics"):
        corrupt(ds, [ProcessNoise(1.0)], seed=0)
    with pytest.raises(OptionError, match=r"Did you mean 'lynx'\?"):
        corrupt(ds, [HideState(["lynxx"])], seed=0)
    with pytest.raises(OptionError, match="hides all"):
        corrupt(ds, [HideState(["hare", "lynx"])], seed=0)
    with pytest.raises(OptionError, match="either at= or rate="):
        RegimeSwitch()
    with pytest.raises(OptionError, match="std must be"):
        SensorNoise(-1.0)
    with pytest.raises(OptionError, match="needs a second law"):
        simulated(RegimeSwitch(at=3.0))
    with pytest.raises(ShapeError, match="the prediction has shape"):
        robustness_report(lambda r: (r.isel(time=slice(3)), r), {"a": ds})
    with pytest.raises(DataError, match="variances are negative"):
        robustness_report(lambda r: (r, r * 0 - 1), {"a": ds})
    with pytest.raises(DataError, match="no value was predicted"):
        robustness_report(lambda r: (r * np.nan, r), {"a": ds})
