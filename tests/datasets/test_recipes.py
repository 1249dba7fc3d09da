"""Simulated datasets: made once, kept, the same for the same seed; named so that nobody mixes them up."""

import json

import numpy as np
import pytest
from scipy.integrate import solve_ivp

from scidyn import data, datasets
from scidyn.errors import OptionError


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("SCIDYN_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


SMALL = {"trajectories": 2, "steps": 11, "until": 2.0}


@pytest.mark.parametrize("name", ["lorenz63", "van_der_pol", "lotka_volterra", "repressilator", "heat_ring"])
def test_made_once_and_kept(name, cache):
    first = datasets.load(name, seed=3, **SMALL)
    data.validate(first)
    assert first.sizes["trajectory"] == 2
    files = {p: p.stat().st_mtime_ns for p in cache.iterdir()}
    assert datasets.load(name, seed=3, **SMALL).identical(first)
    assert {p: p.stat().st_mtime_ns for p in cache.iterdir()} == files
    assert not datasets.load(name, seed=4, **SMALL).identical(first)
    noted = json.loads(first.attrs["recipe"])
    assert (noted["recipe"], noted["seed"], noted["settings"]["steps"]) == (name, 3, 11)


def test_trajectories_are_those_of_scipy():
    ds = datasets.load("lorenz63", **SMALL)
    names = data.state_variables(ds)
    y = np.stack([ds[n].values for n in names], -1)

    def field(t, s):
        return [10 * (s[1] - s[0]), s[0] * (28 - s[2]) - s[1], s[0] * s[1] - 8 / 3 * s[2]]

    for row in y:
        exact = solve_ivp(field, (0, 2), row[0], "DOP853", t_eval=ds["time"].values, rtol=1e-12, atol=1e-12)
        assert np.abs(exact.y.T - row).max() < 1e-5


def test_noise_and_settings():
    clean = datasets.load("van_der_pol", **SMALL | {"steps": 301, "until": 15})
    noisy = datasets.load("van_der_pol", **SMALL | {"steps": 301, "until": 15}, noise=0.1)
    name = data.state_variables(clean)[0]
    assert float((noisy[name] - clean[name]).std() / clean[name].std()) == pytest.approx(0.1, rel=0.1)
    with pytest.raises(OptionError, match=r"Did you mean 'steps'\?"):
        datasets.load("lorenz63", step=3)
    with pytest.raises(OptionError, match="has no entry 'noise'"):
        datasets.load("lynx_hare", noise=0.1)


def test_a_damaged_or_unwritable_cache(cache, monkeypatch, tmp_path):
    first = datasets.load("lorenz63", **SMALL)
    file = next(cache.iterdir())
    file.write_bytes(file.read_bytes()[:500])
    assert datasets.load("lorenz63", **SMALL).identical(first)
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("SCIDYN_CACHE", str(tmp_path / "file"))
    assert datasets.load("lorenz63", **SMALL).equals(first)


def test_heat_is_the_exact_solution():
    ds = datasets.load("heat_ring", trajectories=2, steps=5, points=64, seed=1)
    u, t = ds["u"].values, ds["time"].values
    start = np.fft.rfft(u[:, 0])
    decay = np.exp(-0.01 * (2 * np.pi * np.arange(33)) ** 2 * t[:, None])
    assert np.abs(np.fft.irfft(start[:, None] * decay, 64) - u).max() < 1e-12
    assert ds["x"].attrs["boundary"] == "periodic"


def test_branching_cells_have_the_moments_of_the_process():
    ds = datasets.load("branching_cells", cells=20_000, times=3, seed=2)
    data.validate(ds)
    for t in np.unique(ds["time"].values):
        x1 = ds["x"].values[ds["time"].values == t, 0]
        fade = np.exp(-t)
        assert abs(x1.mean() - 3 * (1 - fade)) < 5 * x1.std() / np.sqrt(x1.size)
        assert x1.var() == pytest.approx(0.05 * fade**2 + 0.125 * (1 - fade**2), rel=0.05)
