"""Named datasets: small real records that ship with the package, simulated ones, and fetched ones."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from scidyn._check.values import choice, known_keys

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["available", "load"]


def available() -> list[str]:
    """Names that :func:`load` knows.

    Returns
    -------
    list of str

    Examples
    --------
    >>> from scidyn import datasets
    >>> "lynx_hare" in datasets.available()
    True
    """
    from scidyn.datasets.fetched import FETCHED
    from scidyn.datasets.recipes import RECIPES

    shipped = [folder.name for folder in _shipped().iterdir() if (folder / "about.json").is_file()]
    return sorted([*shipped, *RECIPES, *FETCHED])


def load(name: str, *, seed: int = 0, **settings: float) -> xr.Dataset:
    """Load a named dataset: shipped, simulated, or fetched once and checked by its SHA-256.

    Parameters
    ----------
    name : str
        One of :func:`available`.
    seed : int
        Seed of a simulated dataset.
    **settings
        What a simulated dataset shall have other than its recipe says: ``trajectories``, ``steps``,
        ``until``, ``noise`` (share of each variable's standard deviation); an unknown one is
        answered with those there are. It is made once and kept in
        the folder ``SCIDYN_CACHE`` names, else in the user's cache.

    Returns
    -------
    xarray.Dataset
        With units on every variable and ``title``, ``source``, ``license`` and ``references`` as attributes.

    Raises
    ------
    scidyn.errors.OptionError
        If the name or a setting is unknown; a near miss is suggested.
    scidyn.errors.ArtifactError
        If data cannot be fetched, or are not what their checksum says.

    Examples
    --------
    >>> from scidyn import datasets
    >>> record = datasets.load("lynx_hare")
    >>> record["lynx"].attrs["units"]
    'thousand pelts'
    """
    from scidyn.data import open as open_file
    from scidyn.datasets.fetched import FETCHED, fetched
    from scidyn.datasets.recipes import RECIPES, simulated

    choice("name", name, available())
    if name in RECIPES:
        return simulated(name, seed=seed, **settings)
    if name in FETCHED:
        known_keys(f"the fetched data {name!r}", settings, ())
        return fetched(name)
    known_keys(f"the record {name!r}", settings, ())
    folder = _shipped() / name
    about = json.loads((folder / "about.json").read_text(encoding="utf-8"))
    ds = open_file(folder / "data.csv")
    ds.attrs |= about["attributes"]
    for variable, attributes in about["variables"].items():
        ds[variable].attrs |= attributes
    return ds


@cache
def _shipped() -> Path:
    """The folder of shipped files: inside the wheel, or at the top of a source tree."""
    here = Path(__file__).parent
    inside = here / "shipped"
    return inside if inside.is_dir() else here.parents[1] / "datasets"
