"""Checked columns of a table put together as trajectories or as cells."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.schema import CONVENTIONS
from scidyn.data.validate import validate
from scidyn.errors import TimeGridError, UnitsError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["cells", "labels", "trajectories"]


def labels(entries: Sequence[Any]) -> list[Any]:
    """Names of replicates; whole numbers become integers unless a leading zero would be lost."""
    texts = [str(cell).strip() for cell in entries]
    if all(re.fullmatch(r"-?(0|[1-9]\d*)", text) for text in texts):
        return [int(text) for text in texts]
    return [cell if not isinstance(cell, str) else cell.strip() for cell in entries]


def trajectories(
    numbers: Mapping[str, np.ndarray],
    units: Mapping[str, str],
    time: str,
    keep: Sequence[str],
    ids: Sequence[Any] | None,
    source: str,
) -> xr.Dataset:
    """One row per replicate, on shared times if they have them, else each on its own."""
    import xarray as xr

    attrs = {"Conventions": CONVENTIONS, "scidyn_kind": "trajectories", "source": source}
    time_attrs = {"units": units[time]} | ({"long_name": time} if time != "time" else {})
    if ids is None:
        _no_repeats(numbers[time], source, None)
        data = {c: ("time", numbers[c], {"units": units[c]}) for c in keep}
        return xr.Dataset(data, {"time": ("time", numbers[time], time_attrs)}, attrs)
    labels = list(dict.fromkeys(ids))
    rows = [np.array([k for k, one in enumerate(ids) if one == label]) for label in labels]
    for label, row in zip(labels, rows, strict=True):
        _no_repeats(numbers[time][row], source, label)
    length = max(map(len, rows))

    def pad(column: str) -> np.ndarray:
        out = np.full((len(rows), length), np.nan)
        for k, row in enumerate(rows):
            out[k, : len(row)] = numbers[column][row]
        return out

    times = pad(time)
    coords: dict[str, Any] = {"trajectory": ("trajectory", labels)}
    shared = bool(np.isfinite(times).all() and (times == times[:1]).all())
    dims = ("trajectory", "time" if shared else "obs")
    attrs["scidyn_kind"] = "trajectories" if shared else "irregular"
    coords["time"] = ("time", times[0], time_attrs) if shared else (dims, times, time_attrs)
    return xr.Dataset({c: (dims, pad(c), {"units": units[c]}) for c in keep}, coords, attrs)


def cells(
    numbers: Mapping[str, np.ndarray],
    units: Mapping[str, str],
    time: str,
    keep: Sequence[str],
    groups: Mapping[str, Sequence[Any]],
    source: str,
) -> xr.Dataset:
    """Rows as cells; the columns of values, which share their units, are one variable ``x``."""
    import xarray as xr

    other = next((c for c in keep if units[c] != units[keep[0]]), None)
    if other is not None:
        raise UnitsError(
            f"{source}: columns of snapshots share their units; {keep[0]!r} is in {units[keep[0]]}, {other!r} in "
            f"{units[other]}: choose columns with values=[…]."
        )
    ds = xr.Dataset(
        {"x": (("cell", "feature"), np.stack([numbers[c] for c in keep], -1), {"units": units[keep[0]]})},
        {
            "time": ("cell", numbers[time], {"units": units[time]}),
            "feature": list(keep),
            **{name: ("cell", labels(entries)) for name, entries in groups.items()},
        },
        {"Conventions": CONVENTIONS, "scidyn_kind": "snapshots", "source": source},
    )
    validate(ds)
    return ds


def _no_repeats(times: np.ndarray, source: str, label: Any) -> None:
    """Repeated times name both rows and the argument that usually cures them."""
    order = np.argsort(times, kind="stable")
    repeated = np.flatnonzero(np.diff(times[order]) == 0)
    if repeated.size:
        i, j = sorted((int(order[repeated[0]]), int(order[repeated[0] + 1])))
        who = "" if label is None else f" of {label!r}"
        raise TimeGridError(
            f"{source}: time {times[i]:g}{who} stands in rows {i + 2} and {j + 2}; "
            "if these are replicates, name their column with id=… (--id in the shell), else merge the rows."
        )
