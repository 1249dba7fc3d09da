"""``ds.scidyn``: what a person holds, in words, as a plot, as tensors."""

from __future__ import annotations

import html
from typing import TYPE_CHECKING, Any

import numpy as np
import xarray as xr

from scidyn._check.values import choice
from scidyn.data.schema import SPACE
from scidyn.errors import DataError, ScidynError

if TYPE_CHECKING:
    import torch

__all__ = ["DatasetAccessor", "structure", "summary"]


def summary(ds: xr.Dataset) -> list[tuple[str, str, int, int, str, str]]:
    """One row per variable: name, units, observed, missing, range, role.

    Parameters
    ----------
    ds : xarray.Dataset
        Any Dataset.

    Returns
    -------
    list of tuple

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.data import summary
    >>> summary(scidyn.datasets.load("lynx_hare"))[0]
    ('hare', 'thousand pelts', 21, 0, '7.6 to 77.4', 'state')
    """
    rows = []
    for name, variable in ds.data_vars.items():
        role = str(variable.attrs.get("role", "state"))
        units = str(variable.attrs.get("units", "")) or "no units"
        if variable.dtype.kind not in "fiu":
            rows.append((str(name), "", int(variable.size), 0, str(variable.dtype), role))
            continue
        values = variable.values
        seen = int(np.isfinite(values).sum())
        span = f"{np.nanmin(values):.4g} to {np.nanmax(values):.4g}" if seen else "nothing observed"
        rows.append((str(name), units, seen, int(values.size) - seen, span, role))
    return rows


def structure(ds: xr.Dataset) -> list[str]:
    """Kind, sizes, the range and the steps of time and space: one line each.

    Parameters
    ----------
    ds : xarray.Dataset
        Any kind.

    Returns
    -------
    list of str
    """
    kind = str(ds.attrs.get("scidyn_kind", "trajectories"))
    sizes = ", ".join(f"{n} {d}" for d, n in ds.sizes.items())
    lines = [f"{ds.attrs.get('title', kind)} ({sizes})"]
    if "time" in ds.variables and ds["time"].dtype.kind in "fiu" and ds["time"].size:
        time = ds["time"].values.astype(float)
        unit = str(ds["time"].attrs.get("units", "no units"))
        lines.append(f"time {np.nanmin(time):g} to {np.nanmax(time):g} {unit}{_spacing(time, kind)}")
    for d in SPACE:
        if d in ds.dims and d in ds.coords and ds[d].size > 1:
            points = np.asarray(ds[d].values, dtype=float)
            unit = str(ds[d].attrs.get("units", "no units"))
            edge = f", {ds[d].attrs['boundary']}" if "boundary" in ds[d].attrs else ""
            lines.append(f"{d} {points.min():g} to {points.max():g} {unit}{_spacing(points, 'space')}{edge}")
    return lines


def _spacing(time: np.ndarray, kind: str) -> str:
    if kind == "snapshots":
        return f", {np.unique(time).size} time points"
    steps = np.diff(time, axis=-1)
    steps = steps[np.isfinite(steps)]
    if not steps.size:
        return ""
    low, high = float(steps.min()), float(steps.max())
    if kind == "space":
        even = high - low <= 1e-6 * abs(high)
        return f", {time.size} points" if even else f", {time.size} points, steps of {low:g} to {high:g}"
    return f", every {low:g}" if high - low <= 1e-9 * abs(high) else f", steps of {low:g} to {high:g}"


@xr.register_dataset_accessor("scidyn")
class DatasetAccessor:
    """Shortcuts on every Dataset: printed, it says what it holds; failures are scidyn's errors.

    Parameters
    ----------
    dataset : xarray.Dataset
        The Dataset that it was reached from.

    Examples
    --------
    >>> import scidyn
    >>> print(scidyn.datasets.load("lynx_hare").scidyn)
    Hudson Bay lynx and hare pelts, 1900–1920 (21 time)
    time 1900 to 1920 year, every 1
      hare  thousand pelts  21 observed, 0 missing  7.6 to 77.4
      lynx  thousand pelts  21 observed, 0 missing  4 to 59.4
    """

    def __init__(self, dataset: xr.Dataset) -> None:
        self._dataset = dataset

    def __repr__(self) -> str:
        rows = summary(self._dataset)
        names = max((len(r[0]) for r in rows), default=0)
        units = max((len(r[1]) for r in rows), default=0)
        lines = [
            f"  {name:{names}}  {unit:{units}}  {seen} observed, {lost} missing  {span}"
            + (f"  ({role})" if role != "state" else "")
            for name, unit, seen, lost, span, role in rows
        ]
        return "\n".join([*structure(self._dataset), *lines, *self._problems()])

    def _repr_html_(self) -> str:
        """A table for notebooks; everything that came from a file is escaped."""
        head, *more = (html.escape(line) for line in structure(self._dataset))
        columns = ("variable", "units", "observed", "missing", "range", "role")
        cells = "".join(
            "<tr>" + "".join(f"<td>{html.escape(str(v))}</td>" for v in row) + "</tr>" for row in summary(self._dataset)
        )
        notes = "".join(f"<p>{html.escape(line)}</p>" for line in [*more, *self._problems()])
        title = "".join(f"<th>{c}</th>" for c in columns)
        table = f"<table><thead><tr>{title}</tr></thead><tbody>{cells}</tbody></table>"
        return f"<div><strong>{head}</strong>{notes}{table}</div>"

    def validate(self) -> tuple[str, ...]:
        """Check the Dataset; what a person should look at, or an error with every finding.

        Returns
        -------
        tuple of str

        Raises
        ------
        scidyn.errors.DataError
            If the Dataset cannot be used.
        """
        from scidyn.data.validate import validate

        return validate(self._dataset).warnings

    def plot(self, ax: Any = None) -> np.ndarray:
        """Draw what is held: curves, fields over space and time, clouds of cells, or pairs of functions.

        Parameters
        ----------
        ax : array of matplotlib.axes.Axes, optional
            Where to draw, one for each variable (at most four); default a new figure.

        Returns
        -------
        numpy.ndarray of matplotlib.axes.Axes
            ``axes[0].figure`` is the figure.

        Raises
        ------
        scidyn.errors.DataError
            If there is nothing to draw.
        """
        from scidyn.data.picture import draw

        return draw(self._dataset, ax)

    def to_tensors(self, layout: str = "btxc", **options: Any) -> torch.Tensor:
        """Values as one tensor; missing ones are zero.

        Parameters
        ----------
        layout : {"btxc", "btcx"}
            Batch, time, space, channel in this order: channels last, or before space as convolutions
            want them.
        **options
            ``dtype`` and ``device`` of :func:`scidyn.data.to_batch`.

        Returns
        -------
        torch.Tensor

        Raises
        ------
        scidyn.errors.DataError
            If the Dataset cannot be used.
        """
        from scidyn.data.convert import to_batch

        choice("layout", layout, ("btxc", "btcx"))
        y = to_batch(self._dataset, **options).y
        return y if layout == "btxc" else y.movedim(-1, 2)

    def _problems(self) -> list[str]:
        try:
            return [f"look at: {line}" for line in self.validate()]
        except ScidynError as error:
            return [f"problem: {error}"]
        except Exception as error:  # a picture of a Dataset must not fail for what the Dataset is
            raise DataError(f"The Dataset cannot be described: {error}.") from error
