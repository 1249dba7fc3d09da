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


_COMMON: dict[str, float] = {"trajectories": 20, "steps": 201, "noise": 0.0}
RECIPES: dict[str, Recipe] = {
    "lorenz63": Recipe("Lorenz 1963, 20 trajectories on the attractor", _lorenz, {**_COMMON, "until": 10.0}),
    "van_der_pol": Recipe("Van der Pol oscillator, 20 trajectories", _van_der_pol, {**_COMMON, "until": 20.0}),
    "lotka_volterra": Recipe("Predators and prey, 20 trajectories", _lotka_volterra, {**_COMMON, "until": 20.0}),
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
