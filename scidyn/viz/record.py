"""The record as measured."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from scidyn.viz.series import MOST, Curve, curves, mean_names, time_axis, trajectories
from scidyn.viz.style import colour, panels, title

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["draw_points", "grid_of", "plot_record"]


def plot_record(ds: xr.Dataset, *, ax: Any = None) -> np.ndarray:
    """Draw a record: one row per variable, one column per trajectory, at most four of them.

    Gaps stay gaps: missing values are neither drawn nor bridged.

    Parameters
    ----------
    ds : xarray.Dataset
        A record, with ``units``.
    ax : Axes, array of Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (variable, trajectory)

    Raises
    ------
    scidyn.errors.DataError
        If the Dataset has no measured variable.
    scidyn.errors.ShapeError
        If ``ax`` holds another number of axes.

    Examples
    --------
    >>> import scidyn
    >>> scidyn.viz.plot_record(scidyn.datasets.load("lynx_hare")).shape
    (2, 1)
    """
    axes = grid_of(ds, mean_names(ds), ax)
    for row, name in enumerate(mean_names(ds)):
        for one, curve in zip(axes[row], curves(ds, name), strict=False):
            one.plot(curve.t, curve.y, color=colour(row), linewidth=1.1, alpha=0.55)
            draw_points(one, curve, colour(row))
    return axes


def grid_of(ds: xr.Dataset, names: list[str], ax: Any) -> np.ndarray:
    """Rows of variables by columns of trajectories, labelled."""
    labels = trajectories(ds)[:MOST]
    axes = panels(ax, len(names), len(labels), width=7.2 if len(labels) < 3 else 9.6, sharex="col", sharey="row")
    for row, name in enumerate(names):
        units = str(ds[name].attrs.get("units", "1"))
        axes[row, 0].set_ylabel(units if units != "1" else "")
        for column, label in enumerate(labels):
            title(axes[row, column], name if label is None else f"{name}, {label}", colour(row))
    for one in axes[-1]:
        time_axis(one, ds)
    return axes


def draw_points(ax: Axes, curve: Curve, shade: str, *, hollow: bool = False, **options: Any) -> None:
    """Measured values; hollow ones were kept from the fit."""
    from scidyn.viz.style import PAPER

    settings: dict[str, Any] = {"markersize": 4.6, "markeredgewidth": 1.2, "zorder": 4} | options
    fill = PAPER if hollow else shade
    ax.plot(curve.t, curve.y, "o", color=shade, markerfacecolor=fill, markeredgecolor=shade, **settings)
