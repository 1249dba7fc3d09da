"""Data and fitted curve with its band."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.viz.record import draw_points, grid_of
from scidyn.viz.series import Curve, curves
from scidyn.viz.style import colour

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["dense_fit", "draw_band", "plot_fit", "window"]

_BAND_GRID = 101  # bands cost a sensitivity at every time, lines do not
_LINE_GRID = 401


def plot_fit(model: Any, record: xr.Dataset, *, ax: Any = None) -> np.ndarray:
    """Draw measured points and the fitted trajectory with its prediction band.

    Parameters
    ----------
    model : estimator
        Fitted to ``record``.
    record : xarray.Dataset
        What it was fitted to.
    ax : Axes, array of Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (variable, trajectory)

    Raises
    ------
    scidyn.errors.NotFittedError
        If the model is not fitted.
    scidyn.errors.ShapeError
        If ``ax`` holds another number of axes.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> scidyn.viz.plot_fit(MechanisticODE(LotkaVolterra()).fit(record), record).shape
    (2, 1)
    """
    names = list(model.variables_)
    fine = dense_fit(model, record)
    axes = grid_of(record, names, ax)
    for row, name in enumerate(names):
        for one, measured, fitted in zip(axes[row], curves(record, name), curves(fine, name), strict=False):
            draw_band(one, fitted, colour(row))
            draw_points(one, measured, colour(row))
        window(axes[row], list(curves(record, name)), list(curves(fine, name)))
    return axes


def dense_fit(model: Any, record: xr.Dataset, *, band: bool = True) -> xr.Dataset:
    """The fitted trajectory on a grid fine enough to look smooth; at the record's own times if irregular."""
    if record["time"].ndim != 1:
        return model.fitted_
    times = np.asarray(record["time"].values, dtype=float)
    grid = np.linspace(times[0], times[-1], _BAND_GRID if band else _LINE_GRID)
    return model.predict(np.union1d(grid, times), interval=model.confidence if band else None)


def draw_band(ax: Axes, curve: Curve, shade: str, **options: Any) -> None:
    """A curve and, if it has one, its band."""
    if curve.lower is not None and curve.upper is not None:
        ax.fill_between(curve.t, curve.lower, curve.upper, color=shade, alpha=0.16, linewidth=0, zorder=1)
    ax.plot(curve.t, curve.y, color=shade, **({"linewidth": 1.8, "zorder": 3} | options))


def window(axes: Any, points: list[Curve], lines: list[Curve]) -> None:
    """Limit the vertical axis to data, curve and most of the band, so that one wild edge hides nothing."""
    seen = np.concatenate([c.y for c in (*points, *lines)])
    seen = seen[np.isfinite(seen)]
    if seen.size == 0:
        return
    low, high = float(seen.min()), float(seen.max())
    span = (high - low) or abs(high) or 1.0
    edges = [e[np.isfinite(e)] for c in lines for e in (c.lower, c.upper) if e is not None]
    if edges:
        low = max(min(low, *(float(e.min()) for e in edges if e.size)), low - 0.6 * span)
        high = min(max(high, *(float(e.max()) for e in edges if e.size)), high + 0.9 * span)
    bottom = 0.0 if low >= 0 and low < 0.4 * high else low - 0.05 * (high - low)
    np.asarray(axes, dtype=object).ravel()[0].set_ylim(bottom, high + 0.06 * (high - bottom))
