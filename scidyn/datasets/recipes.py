"""Simulated datasets: a recipe and a seed, made once and kept as HDF5."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import integer, known_keys, number
from scidyn.data.schema import CONVENTIONS
from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["RECIPES", "Recipe", "cache_folder", "simulated"]


@dataclass(frozen=True)
class Recipe:
    """How a simulated dataset is made.

    Attributes
    ----------
    title : str
        One line for people.
    make : callable
        ``make(generator, settings) -> Dataset``.
    settings : mapping of str to float
        Names and default values.
    """

    title: str
    make: Callable[[np.random.Generator, Mapping[str, float]], xr.Dataset]
    settings: Mapping[str, float]


def _starts(system: Any, generator: np.random.Generator, rows: int, spread: float) -> np.ndarray:
    centre = np.asarray(system.initial, dtype=float)
    return np.asarray(centre * (1 + spread * generator.uniform(-1, 1, (rows, centre.size))))


def _simulate(system: Any, generator: np.random.Generator, settings: Mapping[str, float], spread: float) -> xr.Dataset:
    times = np.linspace(0.0, settings["until"], int(settings["steps"]))
    starts = _starts(system, generator, int(settings["trajectories"]), spread)
    ds = system.simulate(times, starts, rtol=1e-9, atol=1e-9)
    if settings["noise"]:
        from scidyn.data import state_variables

        for name in state_variables(ds):
            std = settings["noise"] * float(ds[name].std())
            attrs = dict(ds[name].attrs)
            ds[name] = ds[name] + std * generator.normal(size=ds[name].shape)
            ds[name].attrs = attrs
    return ds


def _lorenz(generator: np.random.Generator, settings: Mapping[str, float]) -> xr.Dataset:
    from scidyn.systems import Lorenz63

    return _simulate(Lorenz63(), generator, settings, 0.5)


def _van_der_pol(generator: np.random.Generator, settings: Mapping[str, float]) -> xr.Dataset:
    from scidyn.systems import VanDerPol

    return _simulate(VanDerPol(), generator, settings, 0.5)


def _lotka_volterra(generator: np.random.Generator, settings: Mapping[str, float]) -> xr.Dataset:
    from scidyn.systems import LotkaVolterra

    return _simulate(LotkaVolterra(), generator, settings, 0.3)


def _repressilator(generator: np.random.Generator, settings: Mapping[str, float]) -> xr.Dataset:
    from scidyn.systems import Repressilator

    return _simulate(Repressilator(), generator, settings, 0.5)


def _heat(generator: np.random.Generator, settings: Mapping[str, float]) -> xr.Dataset:
    """Heat in a ring, exact: every Fourier mode k of the start decays as exp(−κ (2πk)² t)."""
    import xarray as xr

    rows, steps, points = (int(settings[key]) for key in ("trajectories", "steps", "points"))
    k = np.arange(1, points // 4)
    weights = generator.normal(size=(2, rows, k.size)) / k
    x, t = np.arange(points) / points, np.linspace(0.0, settings["until"], steps)
    decay = np.exp(-settings["diffusivity"] * (2 * np.pi * k) ** 2 * t[:, None])
    waves = np.stack([np.cos(2 * np.pi * k[:, None] * x), np.sin(2 * np.pi * k[:, None] * x)])
    u = np.einsum("crk,tk,ckx->rtx", weights, decay, waves, optimize=True)
    u += settings["noise"] * u.std() * generator.normal(size=u.shape)
    return xr.Dataset(
        {"u": (("trajectory", "time", "x"), u, {"units": "K", "long_name": "temperature above the mean"})},
        {
            "time": ("time", t, {"units": "s"}),
            "x": ("x", x, {"units": "m", "axis": "X", "boundary": "periodic"}),
            "trajectory": np.arange(rows),
        },
        {"Conventions": CONVENTIONS, "scidyn_kind": "trajectories"},
    )


def _snapshots(generator: np.random.Generator, settings: Mapping[str, float]) -> xr.Dataset:
    """Cells of an Ornstein–Uhlenbeck process dx = (a − x) dt + σ dW in two branches, each seen once."""
    import xarray as xr

    count, times = int(settings["cells"]), np.linspace(0.0, settings["until"], int(settings["times"]))
    side = generator.choice([-1.0, 1.0], size=(times.size, count))
    goal = np.stack([np.full_like(side, 3.0), 2.0 * side], -1)
    fade = np.exp(-times)[:, None, None]
    spread = np.sqrt(0.05 * fade**2 + settings["sigma"] ** 2 / 2 * (1 - fade**2))
    cells = goal * (1 - fade) + spread * generator.normal(size=(times.size, count, 2))
    return xr.Dataset(
        {"x": (("cell", "feature"), cells.reshape(-1, 2), {"units": "1"})},
        {
            "time": ("cell", np.repeat(times, count), {"units": "day"}),
            "feature": ["x1", "x2"],
            "branch": ("cell", np.where(side.ravel() > 0, "up", "down")),
        },
        {"Conventions": CONVENTIONS, "scidyn_kind": "snapshots"},
    )


_COMMON: dict[str, float] = {"trajectories": 20, "steps": 201, "noise": 0.0}
RECIPES: dict[str, Recipe] = {
    "lorenz63": Recipe("Lorenz 1963, trajectories on the attractor", _lorenz, {**_COMMON, "until": 10.0}),
    "van_der_pol": Recipe("Van der Pol oscillator", _van_der_pol, {**_COMMON, "until": 20.0}),
    "lotka_volterra": Recipe("Predators and prey", _lotka_volterra, {**_COMMON, "until": 20.0}),
    "repressilator": Recipe("Repressilator", _repressilator, {**_COMMON, "until": 40.0}),
    "heat_ring": Recipe(
        "Heat in a ring, exact solution",
        _heat,
        {**_COMMON, "steps": 51, "until": 1.0, "points": 128, "diffusivity": 0.01},
    ),
    "branching_cells": Recipe(
        "Cells that part into two branches, seen once each",
        _snapshots,
        {"cells": 500, "times": 5, "until": 2.0, "sigma": 0.5},
    ),
}
"""Simulated datasets by name."""


def cache_folder() -> Path:
    """Where made datasets are kept: ``SCIDYN_CACHE``, else the user's cache folder.

    Returns
    -------
    Path
    """
    given = os.environ.get("SCIDYN_CACHE")
    if given:
        return Path(given)
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path.home() / ".cache") / "scidyn"


def simulated(name: str, *, seed: int = 0, **settings: float) -> xr.Dataset:
    """Open a simulated dataset, making it first if this recipe, seed and settings are new.

    Parameters
    ----------
    name : str
        One of :data:`RECIPES`.
    seed : int
        Seed of everything random in it.
    **settings
        Values that differ from those of the recipe, such as ``trajectories=100`` or ``noise=0.05``
        (share of each variable's standard deviation).

    Returns
    -------
    xarray.Dataset
        With the recipe, its settings and the seed as attributes.
    """
    from scidyn import data

    recipe = RECIPES[name]
    seed = integer("seed", seed, at_least=0)
    known_keys(f"the recipe of {name!r}", settings, recipe.settings)
    full = {key: number(key, settings.get(key, value), at_least=0) for key, value in recipe.settings.items()}
    noted = json.dumps({"recipe": name, "version": 1, "seed": seed, "settings": full}, sort_keys=True)
    file = cache_folder() / f"{name}-{hashlib.sha256(noted.encode()).hexdigest()[:12]}.nc"
    if file.exists():
        try:
            found = data.open(file)
        except ArtifactError:
            found = None  # damaged by something else; it is made again
        if found is not None and found.attrs.get("recipe") == noted:
            return found
    ds = recipe.make(np.random.default_rng(seed), full)
    ds.attrs |= {"title": recipe.title, "recipe": noted, "license": "CC0-1.0"}
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        data.save(ds, file, overwrite=True)
    except OSError:
        return ds  # a folder that cannot be written costs only the time to make it again
    return data.open(file)
