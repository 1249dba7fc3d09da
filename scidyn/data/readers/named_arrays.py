"""Plain named arrays, as .npz and .mat files hold them, to a canonical Dataset by matching lengths."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from itertools import permutations
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice, did_you_mean
from scidyn.data.readers.finish import finish
from scidyn.data.schema import CONVENTIONS, SPACE
from scidyn.errors import DataError, OptionError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["HINTS", "from_named_arrays"]

HINTS = ("time", "values", "units", "dims", "kind")
_TIMES = ("t", "time", "times", "tt", "ts", "dts", "tspan", "t_star")


def from_named_arrays(
    arrays: Mapping[str, np.ndarray],
    source: str,
    *,
    time: str | None = None,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    dims: Mapping[str, Sequence[str]] | None = None,
    kind: str | None = None,
) -> xr.Dataset:
    """Make a Dataset from arrays whose names and lengths say what they are.

    Times are the vector called ``t``, ``time``, ``tt`` or the like; vectors called ``x``, ``y``, ``z``
    are space. Each axis of another array gets the coordinate of the same length, the one axis left over
    is ``trajectory`` (first) or ``feature`` (last).

    Raises
    ------
    DataError
        If no times are found or an array's axes cannot be told apart; the argument that cures it is named.
    """
    import xarray as xr

    arrays = {name.replace("/", "_"): _plain(array) for name, array in arrays.items()}
    arrays = {name: array for name, array in arrays.items() if array.dtype.kind in "fiubc" and array.size > 1}
    clock = _clock(arrays, time, source)
    times = arrays.pop(clock).astype(float).ravel()
    repeats = np.unique(times).size < times.size
    kind = choice("kind", kind, ("trajectories", "snapshots")) if kind else "snapshots" if repeats else "trajectories"
    if values is not None:
        for name in values:
            if name not in arrays:
                raise OptionError(f"values names {name!r}; {source} holds {list(arrays)}.{did_you_mean(name, arrays)}")
    if kind == "snapshots":
        ds = _snapshots(arrays, times, values, source)
        return finish(ds, values=None, units=units)
    space = {n: a.ravel() for n, a in arrays.items() if n in SPACE and max(a.shape) == a.size}
    wanted = list(values) if values is not None else [n for n in arrays if n not in space]
    sizes = {"time": times.size, **{n: a.size for n, a in space.items()}}
    data: dict[str, Any] = {}
    for name in wanted:
        for part, array in _real_parts(name, arrays[name]):
            axes = tuple(dims[name]) if dims and name in dims else _axes(name, array, sizes, source)
            data |= _canonical(part, axes, array, source)
    used = {d for axes, *_ in data.values() for d in axes}
    coords = {"time": ("time", times), **{n: (n, a.astype(float)) for n, a in space.items() if n in used}}
    attrs = {"Conventions": CONVENTIONS, "scidyn_kind": "trajectories", "source": source}
    if not data:
        raise DataError(f"{source} holds times and no values; its arrays are {list(arrays)}.")
    ds = xr.Dataset(data, coords, attrs)
    if "trajectory" in ds.dims:
        ds = ds.assign_coords(trajectory=np.arange(ds.sizes["trajectory"]))
    for name in space:
        if name in ds.coords:
            ds[name].attrs["axis"] = name.upper()
    return finish(ds, values=None, units=units)


def _plain(array: np.ndarray) -> np.ndarray:
    """Without the axes of length one that MATLAB gives to vectors and scalars."""
    return array.reshape([n for n in array.shape if n != 1] or [1])


def _clock(arrays: Mapping[str, np.ndarray], time: str | None, source: str) -> str:
    if time is not None:
        if time not in arrays:
            raise OptionError(f"time names {time!r}; {source} holds {list(arrays)}.{did_you_mean(time, arrays)}")
        return time
    found = [name for name, array in arrays.items() if name.lower() in _TIMES and array.ndim == 1]
    if len(found) != 1:
        shapes = ", ".join(f"{n} {a.shape}" for n, a in arrays.items())
        raise DataError(f"Which array of {source} is time? Name it with time=…; the arrays are {shapes}.")
    return found[0]


def _axes(name: str, array: np.ndarray, sizes: Mapping[str, int], source: str) -> tuple[str, ...]:
    """Dims by length; anything that fits in two ways is asked for."""
    free = array.ndim - 1  # axes beside time
    fits = set()
    for extra in range(min(free, 2) + 1):
        fillers = [(), ("feature",), ("trajectory",), ("trajectory", "feature")]
        for filler in (f for f in fillers if len(f) == extra):
            for chosen in _subsets([d for d in sizes if d != "time"], free - extra):
                for order in permutations(("time", *chosen, *filler)):
                    lengths = [sizes.get(d) for d in order]
                    if all(want in (None, got) for want, got in zip(lengths, array.shape, strict=True)):
                        fits.add(order)
        if fits:
            break
    fits = {
        f
        for f in fits
        if ("trajectory" not in f or f[0] == "trajectory") and ("feature" not in f or f[-1] == "feature")
    }
    if len(fits) > 1:  # the usual order decides, if it is among them
        usual = [f for f in fits if list(f) == sorted(f, key=("trajectory", "time", *SPACE, "feature").index)]
        square = len({n for n in array.shape}) < array.ndim
        fits = set(usual[:1]) if len(usual) == 1 and not square else fits
    if len(fits) != 1:
        known = ", ".join(f"{d} has {n}" for d, n in sizes.items())
        raise ShapeError(
            f"{source}: the axes of {name!r} with shape {array.shape} cannot be told ({known}); say them with "
            f"dims={{{name!r}: ('trajectory', 'time', 'feature')}} in the order of the file, or "
            "say kind='snapshots' if rows are cells that were measured once."
        )
    return fits.pop()


def _subsets(names: Sequence[str], count: int) -> list[tuple[str, ...]]:
    from itertools import combinations

    return list(combinations(names, count)) if count >= 0 else []


def _real_parts(name: str, array: np.ndarray) -> list[tuple[str, np.ndarray]]:
    if array.dtype.kind == "c":
        return [(f"{name}_real", array.real), (f"{name}_imag", array.imag)]
    return [(name, array)]


def _canonical(name: str, axes: Sequence[str], array: np.ndarray, source: str) -> dict[str, Any]:
    """One array in canonical order; a feature axis becomes one variable per column."""
    if len(axes) != array.ndim or "time" not in axes:
        raise ShapeError(f"{source}: dims of {name!r} are {tuple(axes)}, its shape is {array.shape}.")
    order = [d for d in ("trajectory", "time", *SPACE) if d in axes]
    if "feature" in axes:
        moved = np.moveaxis(array, list(axes).index("feature"), -1)
        rest = [d for d in axes if d != "feature"]
        return {
            f"{name}{k}": (order, np.moveaxis(moved[..., k], [rest.index(d) for d in order], range(len(order))))
            for k in range(moved.shape[-1])
        }
    return {name: (order, np.moveaxis(array, [list(axes).index(d) for d in order], range(len(order))))}


def _snapshots(
    arrays: Mapping[str, np.ndarray], times: np.ndarray, values: Sequence[str] | None, source: str
) -> xr.Dataset:
    """Cells: one time per row, or one block of rows per time."""
    import xarray as xr

    data: dict[str, Any] = {}
    cell_times = times
    for name, array in arrays.items():
        if values is not None and name not in values:
            continue
        if array.ndim == 3 and array.shape[0] == times.size:  # (time, cell, feature)
            cell_times = np.repeat(times, array.shape[1])
            data[name] = (("cell", "feature"), array.reshape(-1, array.shape[2]))
        elif array.shape[0] == times.size and array.ndim == 2:
            data[name] = (("cell", f"{name}_feature" if data else "feature"), array)
        elif values is not None:
            raise ShapeError(f"{source}: {name!r} has shape {array.shape}, there are {times.size} times.")
    if not data:
        raise DataError(f"{source} holds no array with a row for each of its {times.size} times.")
    columns = data[next(iter(data))][1].shape[1]
    data = {n: (("cell", "feature"), a) for n, (_, a) in data.items() if a.shape[1] == columns}
    coords = {"time": ("cell", cell_times), "feature": [f"f{k}" for k in range(columns)]}
    return xr.Dataset(data, coords, {"Conventions": CONVENTIONS, "scidyn_kind": "snapshots", "source": source})
