"""Hypothesis strategies that draw any Dataset scidyn accepts; needs hypothesis."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice
from scidyn.data.schema import CONVENTIONS, KINDS
from scidyn.errors import MissingDependencyError

if TYPE_CHECKING:
    import xarray as xr
    from hypothesis.strategies import SearchStrategy

__all__ = ["datasets", "time_grids"]

_NAMES = ("a", "speed", "Ca2+", "θ", "x_1", "level of dye", "é")
_UNITS = ("1", "m", "mg/L", "thousand pelts", "m s-1", "µg/L", "degree_Celsius")
_LARGEST = 1e12


def time_grids(least: int = 2, most: int = 12) -> SearchStrategy[np.ndarray]:
    """Strictly increasing finite times, evenly spaced or not, of any scale and sign.

    Parameters
    ----------
    least, most : int
        Bounds of the number of times.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        Draws float64 arrays.

    Examples
    --------
    >>> from scidyn.testing import time_grids
    >>> times = time_grids().example()  # doctest: +SKIP
    """
    st = _strategies()
    steps = st.lists(st.floats(1e-3, 1e3, allow_subnormal=False), min_size=least - 1, max_size=most - 1)

    def grid(start: float, gaps: list[float], scale: float) -> np.ndarray:
        times = scale * (start + np.concatenate([[0.0], np.cumsum(gaps)]))
        return (
            np.asarray(np.unique(times)) if np.unique(times).size == times.size else np.arange(times.size, dtype=float)
        )

    drawn: SearchStrategy[np.ndarray] = st.builds(grid, st.floats(-1e3, 1e3), steps, st.sampled_from([1e-6, 1.0, 1e6]))
    return drawn


def datasets(kind: str = "trajectories", *, missing: bool = True, most: int = 8) -> SearchStrategy[xr.Dataset]:
    """Valid Datasets of one kind: names, units, dtypes, missing values and roles as they come.

    Parameters
    ----------
    kind : {"trajectories", "irregular", "snapshots", "pairs"}
        What to draw.
    missing : bool
        Allow NaN.
    most : int
        Most trajectories, times or cells.

    Returns
    -------
    hypothesis.strategies.SearchStrategy
        Draws Datasets that :func:`scidyn.data.validate` accepts.

    Raises
    ------
    scidyn.errors.MissingDependencyError
        Without hypothesis.

    Examples
    --------
    >>> from hypothesis import given, settings
    >>> from scidyn.data import validate
    >>> from scidyn.testing import datasets
    >>> @settings(max_examples=3, deadline=None, database=None)
    ... @given(datasets("irregular"))
    ... def every_dataset_is_valid(ds):
    ...     validate(ds)
    >>> every_dataset_is_valid()
    """
    choice("kind", kind, KINDS)
    st = _strategies()
    build = {"trajectories": _trajectories, "irregular": _irregular, "snapshots": _snapshots, "pairs": _pairs}[kind]
    composite: SearchStrategy[xr.Dataset] = st.composite(build)(missing=missing, most=most)
    return composite


def _strategies() -> Any:
    try:
        from hypothesis import strategies
    except ImportError:
        raise MissingDependencyError("scidyn.testing needs hypothesis: pip install 'scidyn[test]'.") from None
    return strategies


Draw = Callable[[Any], Any]


def _values(draw: Draw, shape: tuple[int, ...], missing: bool, integers: bool = True) -> np.ndarray:
    """Numbers of a drawn dtype; at least one is observed."""
    st = _strategies()
    dtype = np.dtype(draw(st.sampled_from(["f8", "f4", "i4", "i8"] if integers else ["f8", "f4"])))
    seed = draw(st.integers(0, 2**32 - 1))
    generator = np.random.default_rng(seed)
    scale = 10.0 ** draw(st.integers(-3, 6))
    values = (generator.normal(size=shape) * scale).clip(-_LARGEST, _LARGEST).astype(dtype)
    if missing and dtype.kind == "f" and values.size > 1:
        holes = generator.random(shape) < draw(st.sampled_from([0.0, 0.2, 0.8]))
        holes.flat[draw(st.integers(0, values.size - 1))] = False
        values = np.where(holes, np.nan, values).astype(dtype)
    return np.asarray(values)


def _names(draw: Draw, most: int = 3) -> list[str]:
    st = _strategies()
    names: list[str] = draw(st.lists(st.sampled_from(_NAMES), min_size=1, max_size=most, unique=True))
    return names


def _units(draw: Draw) -> dict[str, Any]:
    st = _strategies()
    attrs: dict[str, Any] = {"units": draw(st.sampled_from(_UNITS))}
    if draw(st.booleans()):
        attrs["long_name"] = draw(st.sampled_from(["as measured", "größe", ""]))
    return attrs


def _trajectories(draw: Draw, *, missing: bool, most: int) -> xr.Dataset:
    import xarray as xr

    st = _strategies()
    times = draw(time_grids(2, most))
    rows = draw(st.integers(0, most))
    space = {d: draw(st.integers(1, 3)) for d in draw(st.sampled_from([(), (), ("x",), ("x", "y")]))}
    dims = (*(("trajectory",) if rows else ()), "time", *space)
    shape = (*((rows,) if rows else ()), times.size, *space.values())
    data = {name: (dims, _values(draw, shape, missing), _units(draw)) for name in _names(draw)}
    if draw(st.booleans()):
        data["dose"] = ("time", _values(draw, (times.size,), False), _units(draw) | {"role": "control"})
    coords: dict[str, Any] = {"time": ("time", times, {"units": draw(st.sampled_from(["s", "h", "year"]))})}
    coords |= {d: (d, np.arange(n, dtype=float), {"units": "m"}) for d, n in space.items()}
    if rows:
        labels: Any = np.arange(rows) if draw(st.booleans()) else np.array([f"s{k}" for k in range(rows)])
        coords["trajectory"] = labels
        if draw(st.booleans()):
            data["mass"] = ("trajectory", _values(draw, (rows,), False), _units(draw) | {"role": "parameter"})
        if draw(st.booleans()):
            coords["donor"] = ("trajectory", np.arange(rows) // 2)
    return xr.Dataset(data, coords, {"Conventions": CONVENTIONS, "scidyn_kind": "trajectories"})


def _irregular(draw: Draw, *, missing: bool, most: int) -> xr.Dataset:
    import xarray as xr

    st = _strategies()
    grids = draw(st.lists(time_grids(2, most), min_size=1, max_size=most))
    width = max(g.size for g in grids)
    times = np.full((len(grids), width), np.nan)
    for k, grid in enumerate(grids):
        times[k, : grid.size] = grid
    padding = np.isnan(times)
    data = {}
    for name in _names(draw):
        values = _values(draw, times.shape, missing, integers=False)
        values = np.where(padding, np.nan, values)
        if np.isnan(values).all():
            values[0, 0] = 1.0
        data[name] = (("trajectory", "obs"), values, _units(draw))
    coords = {"time": (("trajectory", "obs"), times, {"units": "h"}), "trajectory": np.arange(len(grids))}
    return xr.Dataset(data, coords, {"Conventions": CONVENTIONS, "scidyn_kind": "irregular"})


def _snapshots(draw: Draw, *, missing: bool, most: int) -> xr.Dataset:
    import xarray as xr

    st = _strategies()
    points = draw(time_grids(2, 5))
    counts = [draw(st.integers(1, most)) for _ in points]
    cells, features = sum(counts), draw(st.integers(1, 4))
    coords: dict[str, Any] = {
        "time": ("cell", np.repeat(points, counts), {"units": "day"}),
        "feature": [f"pc{k}" for k in range(features)],
    }
    if draw(st.booleans()):
        coords["weight"] = ("cell", np.linspace(0.5, 1, cells), {"units": "1"})
    data = {"pca": (("cell", "feature"), _values(draw, (cells, features), False, integers=False), {"units": "1"})}
    return xr.Dataset(data, coords, {"Conventions": CONVENTIONS, "scidyn_kind": "snapshots"})


def _pairs(draw: Draw, *, missing: bool, most: int) -> xr.Dataset:
    import xarray as xr

    st = _strategies()
    samples, side = draw(st.integers(1, most)), draw(st.integers(1, 4))
    dims, shape = ("sample", "x", "y"), (samples, side, side)
    data = {
        role[0]: (dims, _values(draw, shape, False, integers=False), {"units": "1", "role": role})
        for role in ("input", "output")
    }
    coords = {d: (d, np.arange(side, dtype=float), {"units": "m"}) for d in ("x", "y")} | {"sample": np.arange(samples)}
    return xr.Dataset(data, coords, {"Conventions": CONVENTIONS, "scidyn_kind": "pairs"})
