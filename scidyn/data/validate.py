"""Check a Dataset once, at the door: all findings together, the first decides the exception."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from scidyn.data.schema import KINDS, ROLES, exact_times, time_dim
from scidyn.data.structure import pair_structure, snapshot_structure
from scidyn.errors import DataError, NonFiniteError, OptionError, ShapeError, TimeGridError, UnitsError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Report", "validate"]

_DIMS = ("trajectory", "time", "obs", "x", "y", "z", "feature")
_RARE = 0.5


@dataclass(frozen=True)
class Report:
    """What a check of a usable Dataset found.

    Attributes
    ----------
    warnings : tuple of str
        Things a person should look at.
    """

    warnings: tuple[str, ...] = ()


def validate(ds: xr.Dataset) -> Report:
    """Check that ``ds`` is canonical and usable.

    Parameters
    ----------
    ds : xarray.Dataset
        Of the kind that its attribute ``scidyn_kind`` names; absent means ``trajectories``.

    Returns
    -------
    Report
        Findings that do not stop the work.

    Raises
    ------
    scidyn.errors.DataError
        One error that lists every finding; its class is that of the first one
        (ShapeError, TimeGridError, NonFiniteError, UnitsError or DataError).

    Examples
    --------
    >>> import scidyn
    >>> scidyn.data.validate(scidyn.datasets.load("lynx_hare")).warnings
    ()
    """
    kind = ds.attrs.get("scidyn_kind", "trajectories")
    if kind not in KINDS:
        raise OptionError(f"scidyn_kind must be one of {', '.join(map(repr, KINDS))}; got {kind!r}.")
    if kind in ("snapshots", "pairs"):
        findings = list(snapshot_structure(ds) if kind == "snapshots" else pair_structure(ds))
        rest: tuple[Callable[[xr.Dataset], Iterator[Finding]], ...] = (_values, _units)
    else:
        findings = list(_structure(ds))
        rest = (_times, _values, _units)
    if not findings:
        findings = [finding for check in rest for finding in check(ds)]
    if findings:
        first, sentence = findings[0]
        others = "".join(f"\n  {k}. {text}" for k, (_, text) in enumerate(findings[1:], start=2))
        raise first(sentence + (f"\nfurther findings:{others}" if others else ""))
    return Report(tuple(_remarks(ds)))


Finding = tuple[type[Exception], str]


def _variables(ds: xr.Dataset) -> list[str]:
    return [str(n) for n, v in ds.data_vars.items() if n != "mask" and v.dtype.kind in "fiu"]


def _structure(ds: xr.Dataset) -> Iterator[Finding]:
    along = time_dim(ds)
    if "time" not in ds.coords:
        near = [str(n) for n in ds.variables if str(n).lower() in ("t", "times", "year", "date", "hours")]
        cure = f"; rename {near[0]!r} with ds.rename({{{near[0]!r}: 'time'}})" if near else ""
        yield ShapeError, f"The Dataset has no coordinate 'time'; its coordinates are {list(ds.coords)}{cure}."
        return
    if ds["time"].dtype.kind not in "fiu":
        yield TimeGridError, f"time has dtype {ds['time'].dtype}; numbers are needed: convert dates to days first."
    for name in ds.data_vars:
        variable = ds[name]
        strange = [str(d) for d in variable.dims if d not in _DIMS]
        if strange and variable.attrs.get("role") != "auxiliary":
            yield ShapeError, f"Variable {name!r} has the unknown dim {strange[0]!r}; known: {', '.join(_DIMS)}."
        order = [d for d in ("trajectory", along) if d in variable.dims]
        if [d for d in variable.dims if d in order] != order:
            yield (
                ShapeError,
                (
                    f"Variable {name!r} has dims {tuple(variable.dims)}; the order is {tuple(order)}: "
                    f"use ds.transpose({', '.join(map(repr, order))}, ...)."
                ),
            )
        if variable.attrs.get("role", "state") not in ROLES:
            yield OptionError, f"Variable {name!r} has the role {variable.attrs['role']!r}; known: {', '.join(ROLES)}."
        if variable.dtype.kind not in "fiub" and variable.attrs.get("role") != "auxiliary":
            yield DataError, f"Variable {name!r} has dtype {variable.dtype}; numbers are needed."
    empty = [str(d) for d, n in ds.sizes.items() if n == 0 and d != along]
    if empty:
        yield DataError, f"The dim {empty[0]!r} has length 0; nothing is left to work with."
    if along not in ds["time"].dims:
        yield ShapeError, f"The coordinate 'time' has dims {ds['time'].dims}; {along!r} is needed."


def _times(ds: xr.Dataset) -> Iterator[Finding]:
    time = ds["time"]
    unit = f" {time.attrs['units']}" if time.attrs.get("units") else ""
    try:
        values = exact_times(time.values)
    except TimeGridError as error:
        yield TimeGridError, str(error)
        return
    rows = values if time.ndim == 2 else values[None]
    for k, row in enumerate(rows):
        where = f" of trajectory {k}" if time.ndim == 2 else ""
        if time.ndim == 2:  # padding is allowed at the end of a row
            count = int(np.isfinite(row).sum())
            if np.isfinite(row[count:]).any() or np.isinf(row).any():
                yield (
                    TimeGridError,
                    f"time{where} has a gap or an infinity before its padding; pad with NaN at the end.",
                )
                continue
            row = row[:count]
        elif not np.isfinite(row).all():
            first = int(np.flatnonzero(~np.isfinite(row))[0])
            yield TimeGridError, f"time[{first}] is {row[first]}; every row needs a time: drop the row."
            continue
        if row.size < 2:
            yield DataError, f"The record{where} has {row.size} time; at least 2 are needed."
            continue
        bad = np.flatnonzero(np.diff(row) <= 0)
        if bad.size:
            i = int(bad[0]) + 1
            if row[i] == row[i - 1]:
                yield (
                    TimeGridError,
                    (
                        f"time{where} is {row[i]:g}{unit} in rows {i - 1} and {i}; times may not repeat: "
                        "average replicates or make them trajectories."
                    ),
                )
            else:
                yield (
                    TimeGridError,
                    (
                        f"time{where} goes back from {row[i - 1]:g}{unit} to {row[i]:g}{unit} at row {i}; "
                        "sort the rows with ds.sortby('time')."
                    ),
                )


def _values(ds: xr.Dataset) -> Iterator[Finding]:
    for name in _variables(ds):
        values = ds[name].values.astype(float)
        infinite = np.argwhere(np.isinf(values))
        if infinite.size:
            where = [int(i) for i in infinite[0]]
            yield (
                NonFiniteError,
                (f"{name}{where} is {values[tuple(where)]} ({len(infinite)} infinite values); use NaN for missing."),
            )
        needed = ds[name].attrs.get("role") in ("control", "parameter")
        holes = np.argwhere(np.isnan(values) & ~_padding(ds, name)) if needed else infinite[:0]
        if holes.size:
            where = [int(i) for i in holes[0]]
            yield (
                NonFiniteError,
                f"{name}{where} is NaN ({len(holes)} such values); a {ds[name].attrs['role']} is known everywhere.",
            )
        if values.size and np.isnan(values).all():
            yield NonFiniteError, f"Variable {name!r} has no observed value; drop it with ds.drop_vars({name!r})."
        wrong = np.argwhere(_said(ds, name) & np.isnan(values))
        if wrong.size:
            where = [int(i) for i in wrong[0]]
            yield (
                NonFiniteError,
                (
                    f"{name}{where} is NaN but mask says it was observed ({len(wrong)} such values); "
                    "set mask to False there."
                ),
            )


def _padding(ds: xr.Dataset, name: str) -> np.ndarray:
    """Where an irregular record has no time, in the shape of ``name``."""
    variable = ds[name]
    if "time" not in ds.variables or ds["time"].ndim != 2 or not {"trajectory", "obs"} <= set(variable.dims):
        return np.zeros(variable.shape, dtype=bool)
    empty = ds["time"].variable.isnull()
    return empty.set_dims(dict(variable.sizes)).transpose(*variable.dims).values.astype(bool)


def _said(ds: xr.Dataset, name: str) -> np.ndarray:
    """Where ``mask`` says that ``name`` was observed, in its shape; a dim ``feature`` counts the variables."""
    variable = ds[name]
    nothing = np.zeros(variable.shape, dtype=bool)
    if "mask" not in ds.variables:
        return nothing
    said = ds["mask"]
    if "feature" in said.dims and "feature" not in variable.dims:
        states = [n for n in _variables(ds) if ds[n].attrs.get("role", "state") == "state"]
        if name not in states or said.sizes["feature"] != len(states):
            return nothing
        said = said.isel(feature=states.index(name))
    if not set(said.dims) <= set(variable.dims):
        return nothing
    return said.variable.set_dims(dict(variable.sizes)).transpose(*variable.dims).values.astype(bool)


def _units(ds: xr.Dataset) -> Iterator[Finding]:
    wanted = ["time", *_variables(ds)] if "time" in ds.variables else _variables(ds)
    missing = [n for n in wanted if not str(ds[n].attrs.get("units", "")).strip()]
    if missing:
        yield (
            UnitsError,
            (
                f"Units are missing for {', '.join(map(repr, missing))}; set them with "
                f"ds[{missing[0]!r}].attrs['units'] = '…' ('1' for a number without dimension)."
            ),
        )


def _remarks(ds: xr.Dataset) -> Iterator[str]:
    for name in _variables(ds):
        values = ds[name].values.astype(float)
        gaps = float(np.isnan(values).mean())
        if gaps > _RARE and ds.attrs.get("scidyn_kind") != "irregular":
            yield f"{name}: {100 * gaps:.0f} % of its values are missing"
        if values.size and np.nanmax(values) == np.nanmin(values) and ds[name].attrs.get("role", "state") == "state":
            yield f"{name}: all its values are {np.nanmin(values):g}"
