"""Splits into training, validation and test data that do not leak into each other."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np

from scidyn._check.values import integer, number
from scidyn.data.schema import time_dim
from scidyn.errors import DataError, OptionError, SplitError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["GROUPS", "PARTS", "Splits", "check_disjoint", "split"]

PARTS = ("train", "validation", "test")
GROUPS = ("donor", "subject", "patient", "group")
"""Coordinates that say which trajectories or cells come from one source and so must stay together."""


class Splits(NamedTuple):
    """Three Datasets, each with a coordinate ``split``; a part whose fraction is 0 is None.

    Attributes
    ----------
    train, validation, test : xarray.Dataset or None
    """

    train: xr.Dataset
    validation: xr.Dataset | None
    test: xr.Dataset | None


def split(
    ds: xr.Dataset,
    by: str = "trajectory",
    *,
    fractions: Sequence[float] = (0.7, 0.15, 0.15),
    gap: float = 0.0,
    seed: int = 0,
) -> Splits:
    """Split a Dataset so that nothing of the test data is seen in training.

    Parameters
    ----------
    ds : xarray.Dataset
        A checked Dataset.
    by : str
        ``"trajectory"``: whole trajectories, drawn at random. ``"time"``: each trajectory is cut,
        training first. ``"parameter"``: trajectories with the same parameters stay together.
        ``"timepoint"``: whole sampling times of snapshots, the first and the last always in training.
        Any other word is a coordinate along ``trajectory`` or ``cell`` whose equal values stay
        together, such as ``"donor"``.
    fractions : sequence of float
        Shares of training, validation and test; they add to 1. A part with share 0 is None.
    gap : float
        For ``by="time"``: least time from the last row of one part to the first row of the next. Take
        the span of your windows where neighbouring times are correlated.
    seed : int
        Seed of the draw.

    Returns
    -------
    Splits

    Raises
    ------
    scidyn.errors.SplitError
        If a part would be empty, or the split would leak: random windows, or trajectories of one
        donor on two sides.
    scidyn.errors.OptionError
        If ``by`` names nothing in the Dataset, or the fractions do not add to 1.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> parts = scidyn.data.split(record, by="time", fractions=(0.7, 0.0, 0.3), gap=2.0)
    >>> float(parts.train["time"].max()), float(parts.test["time"].min())
    (1914.0, 1916.0)
    """
    shares = _shares(fractions)
    seed = integer("seed", seed, at_least=0)
    gap = number("gap", gap, at_least=0)
    if by in ("window", "windows", "row", "rows", "obs"):
        raise SplitError(
            f"Splitting by {by!r} puts neighbouring times of one trajectory on both sides, so the test error would be "
            "too good; split by 'trajectory', or by 'time' with a gap."
        )
    if by == "time":
        parts = _by_time(ds, shares, gap)
    else:
        if gap:
            raise OptionError(f"gap is for by='time'; got gap={gap:g} with by={by!r}.")
        parts = _by_label(ds, by, shares, seed)
    for name, part, share in zip(PARTS, parts, shares, strict=True):
        if share and part is None:
            raise SplitError(
                f"The {name} part (share {share:g}) is empty when splitting by {by!r}; "
                "take a larger share, a smaller gap, or more data."
            )
    present = [part for part in parts if part is not None]
    if present[0].attrs.get("scidyn_kind") != "pairs":
        check_disjoint(*present, gap=gap, groups=by not in ("time", "timepoint"))
    return Splits(*parts)  # type: ignore[arg-type]  # the training share is positive, so its part is there


def check_disjoint(*parts: xr.Dataset, gap: float = 0.0, groups: bool = True) -> None:
    """Refuse parts that share a stretch of a trajectory, a cell, or a donor.

    Parameters
    ----------
    *parts : xarray.Dataset
        Two or more parts of one Dataset.
    gap : float
        Least time between two parts of one trajectory, in units of time.
    groups : bool
        Refuse one donor on two sides; False where parts differ in time by intent.

    Raises
    ------
    scidyn.errors.SplitError
        If two parts overlap; the trajectory or donor is named.

    Examples
    --------
    >>> import scidyn
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> scidyn.data.check_disjoint(record.isel(time=slice(0, 10)), record.isel(time=slice(10, 21)))
    """
    for i, first in enumerate(parts):
        for second in parts[i + 1 :]:
            _check_pair(first, second, gap, groups)


def _check_pair(first: xr.Dataset, second: xr.Dataset, gap: float, groups: bool) -> None:
    unit = "cell" if "cell" in first.dims else "trajectory"
    shared = _stretches(first, unit).keys() & _stretches(second, unit).keys()
    for label in shared:
        low, high = sorted((_stretches(first, unit)[label], _stretches(second, unit)[label]))
        if unit == "cell" or low[1] >= high[0] or high[0] - low[1] < gap:
            where = f"{unit} {label!r}" if label is not None else "the record"
            raise SplitError(
                f"Two parts hold {where}: one until {low[1]:g}, the other from {high[0]:g}"
                f"{f', with less than the gap {gap:g} between' if low[1] < high[0] else ', so they overlap'}."
            )
    if shared or not groups:
        return  # one trajectory cut in time: its donor is on both sides by intent
    for group in GROUPS:
        if group in first.coords and group in second.coords:
            both = set(first[group].values.ravel().tolist()) & set(second[group].values.ravel().tolist())
            if both:
                raise SplitError(
                    f"{group} {min(both, key=str)!r} is in two parts, so the test data are not independent; "
                    f"split by {group!r}."
                )


def _stretches(part: xr.Dataset, unit: str) -> dict[object, tuple[float, float]]:
    """First and last time of every trajectory (or cell)."""
    time = part["time"].values.astype(float)
    if unit not in part.dims:
        return {None: (float(np.nanmin(time)), float(np.nanmax(time)))}
    labels = part[unit].values.tolist() if unit in part.coords else list(range(part.sizes[unit]))
    if unit == "cell":
        return {label: (t, t) for label, t in zip(labels, time, strict=True)}
    rows = time if time.ndim == 2 else [time] * len(labels)
    return {label: (float(np.nanmin(row)), float(np.nanmax(row))) for label, row in zip(labels, rows, strict=True)}


def _shares(fractions: Sequence[float]) -> tuple[float, ...]:
    shares = tuple(number("fractions", f, at_least=0) for f in fractions)
    if len(shares) != 3 or abs(sum(shares) - 1) > 1e-9:
        raise OptionError(f"fractions must be three numbers that add to 1; got {tuple(fractions)}.")
    if not shares[0]:
        raise SplitError("The training share is 0, so the training part is empty.")
    return shares


def _by_label(ds: xr.Dataset, by: str, shares: Sequence[float], seed: int) -> list[xr.Dataset | None]:
    """Units with the same label go to one part; parts get whole labels in a random order."""
    unit = next((d for d in ("cell", "sample", "trajectory") if d in ds.dims), None)
    if unit is None:
        raise SplitError(f"The Dataset is one record, so it cannot be split by {by!r}; split by 'time'.")
    if unit not in ds.coords:
        ds = ds.assign_coords({unit: np.arange(ds.sizes[unit])})
    labels = _label_codes(ds, by, unit)
    distinct = int(labels.max()) + 1
    generator = np.random.default_rng(seed)
    if by == "timepoint":
        if distinct < 3:
            raise SplitError(f"The Dataset has {distinct} time points; 3 are needed to hold one out between others.")
        order = np.concatenate([[0, distinct - 1], 1 + generator.permutation(distinct - 2)])
    else:
        order = generator.permutation(distinct)
    edges = [0, *np.round(np.cumsum(shares) * distinct).astype(int)]
    parts: list[xr.Dataset | None] = []
    for name, low, high in zip(PARTS, edges[:-1], edges[1:], strict=True):
        rows = np.flatnonzero(np.isin(labels, order[low:high]))
        parts.append(_marked(ds.isel({unit: rows}), unit, name) if rows.size else None)
    return parts


def _label_codes(ds: xr.Dataset, by: str, unit: str) -> np.ndarray:
    """An integer per unit; equal integers stay together."""
    if by in (unit, "trajectory", "cell", "sample"):
        if by != unit:
            raise OptionError(f"by={by!r} does not fit a Dataset of kind {ds.attrs.get('scidyn_kind')!r}.")
        return np.arange(ds.sizes[unit])
    if by == "parameter":
        names = [n for n, v in ds.variables.items() if v.attrs.get("role") == "parameter" and unit in v.dims]
        if not names:
            raise OptionError(
                f"by='parameter' needs variables with the role 'parameter' along {unit!r}; none is there."
            )
        table = np.concatenate([ds[n].transpose(unit, ...).values.reshape(ds.sizes[unit], -1) for n in names], axis=1)
        return np.unique(table, axis=0, return_inverse=True)[1].ravel()
    name = "time" if by == "timepoint" else by
    if name not in ds.variables or ds[name].dims != (unit,):
        along = [str(n) for n, v in ds.variables.items() if v.dims == (unit,) and n != unit]
        raise OptionError(f"by={by!r} is no coordinate along {unit!r}; there are {along or 'none'}.")
    return np.unique(ds[name].values, return_inverse=True)[1].ravel()


def _by_time(ds: xr.Dataset, shares: Sequence[float], gap: float) -> list[xr.Dataset | None]:
    """Cut at the same instants in every trajectory, training first."""
    if "time" not in ds.coords or "cell" in ds.dims:
        raise OptionError("by='time' cuts trajectories; snapshots are split by 'timepoint' or by a donor.")
    along = time_dim(ds)
    if "trajectory" in ds.dims and "trajectory" not in ds.coords:
        ds = ds.assign_coords(trajectory=np.arange(ds.sizes["trajectory"]))
    times = ds["time"].values.astype(float)
    ordered = np.sort(times[np.isfinite(times)])
    edges = np.round(np.cumsum(shares) * ordered.size).astype(int)
    parts: list[xr.Dataset | None] = []
    start = -np.inf
    for name, share, edge in zip(PARTS, shares, edges, strict=True):
        if not share:
            parts.append(None)
            continue
        end = ordered[min(edge, ordered.size) - 1] if edge else -np.inf
        inside = (times > start if gap == 0 else times - start >= gap * (1 - 1e-12)) & (times <= end)
        parts.append(_cut(ds, along, inside, name))
        start = end
    return parts


def _cut(ds: xr.Dataset, along: str, inside: np.ndarray, name: str) -> xr.Dataset | None:
    if inside.ndim == 1:
        rows = np.flatnonzero(inside)
        return _marked(ds.isel({along: rows}), along, name) if rows.size else None
    keep = np.flatnonzero(inside.sum(1) >= 2)  # a trajectory with one time left in this part is no trajectory
    if not keep.size:
        return None
    ds, inside = ds.isel(trajectory=keep), inside[keep]
    width = int(inside.sum(1).max())
    order = np.argsort(~inside, axis=1, kind="stable")[:, :width]  # observed times first, in their order
    valid = np.take_along_axis(inside, order, axis=1)
    out = ds.isel({along: slice(0, width)}).copy(deep=True)
    for key, variable in ds.variables.items():
        if along not in variable.dims:
            continue
        values = variable.transpose("trajectory", along, ...).values if "trajectory" in variable.dims else None
        if values is None:
            raise DataError(f"Variable {key!r} runs along {along!r} without 'trajectory'; it cannot be cut in time.")
        extra = (...,) + (None,) * (values.ndim - 2)
        picked = np.take_along_axis(values, order[extra], axis=1)
        filler = False if values.dtype.kind == "b" else np.nan
        picked = np.where(valid[extra], picked, filler) if values.dtype.kind in "fb" else picked
        out[key] = (
            ("trajectory", along, *variable.transpose("trajectory", along, ...).dims[2:]),
            picked,
            variable.attrs,
        )
    out = out.set_coords("time")
    return _marked(out, "trajectory", name)


def _marked(part: xr.Dataset, dim: str, name: str) -> xr.Dataset:
    return part.assign_coords(split=(dim, np.full(part.sizes[dim], name)))
