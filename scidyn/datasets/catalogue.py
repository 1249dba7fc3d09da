"""Named datasets: small real records that ship with the package, each with a card."""

from __future__ import annotations

import json
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from scidyn._check.values import choice

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
    return sorted(folder.name for folder in _shipped().iterdir() if (folder / "about.json").is_file())


def load(name: str) -> xr.Dataset:
    """Load a named dataset.

    Parameters
    ----------
    name : str
        One of :func:`available`.

    Returns
    -------
    xarray.Dataset
        With units on every variable and ``title``, ``source``, ``license`` and ``references`` as attributes.

    Raises
    ------
    scidyn.errors.OptionError
        If the name is unknown; a near miss is suggested.

    Examples
    --------
    >>> from scidyn import datasets
    >>> record = datasets.load("lynx_hare")
    >>> record["lynx"].attrs["units"]
    'thousand pelts'
    """
    from scidyn.data import open as open_file

    choice("name", name, available())
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
