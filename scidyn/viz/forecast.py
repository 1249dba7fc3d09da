"""A forecast against the times that the fit has not seen, beside forecasts that cost nothing."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.viz.fit import dense_fit, draw_band, window
from scidyn.viz.record import draw_points, grid_of
from scidyn.viz.series import curves
from scidyn.viz.style import MUTED, colour, note

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_forecast"]

_DASHES = ((0, (1, 1.5)), (0, (5, 2)), (0, (3, 1, 1, 1)))


def plot_forecast(backtest: Any, *, ax: Any = None) -> np.ndarray:
    """Draw fit, forecast with its band, and held-out values as hollow points, with the naive baselines.

    Parameters
    ----------
    backtest : scidyn.sysid.Backtest
        What :func:`scidyn.sysid.backtest` returned.
    ax : Axes, array of Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (variable, trajectory)

    Raises
    ------
    scidyn.errors.ShapeError
        If ``ax`` holds another number of axes.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE, backtest
    >>> from scidyn.systems import LotkaVolterra
    >>> trial = backtest(MechanisticODE(LotkaVolterra()), scidyn.datasets.load("lynx_hare"), at=1914)
    >>> scidyn.viz.plot_forecast(trial).shape
    (2, 1)
    """
    names = list(backtest.model.variables_)
    own, *naive = [str(n) for n in backtest.errors["model"].values]
    fitted = dense_fit(backtest.model, backtest.train, band=False)
    ahead = _dense_forecast(backtest, own)
    axes = grid_of(backtest.train, names, ax)
    for row, name in enumerate(names):
        shade = colour(row)
        columns = zip(
            axes[row],
            curves(backtest.train, name),
            curves(backtest.test, name),
            curves(fitted, name),
            curves(ahead, name),
            strict=False,
        )
        for one, before, after, past, future in columns:
            one.plot(past.t, past.y, color=shade, linewidth=1.6, alpha=0.65, zorder=3)
            draw_band(one, future, shade, linewidth=2.2)
            draw_points(one, before, shade)
            draw_points(one, after, shade, hollow=True, markersize=5.4)
            one.axvline(backtest.at, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)), zorder=0)
        window(
            axes[row],
            [*curves(backtest.train, name), *curves(backtest.test, name)],
            [*curves(fitted, name), *curves(ahead, name)],
        )
        for k, other in enumerate(naive):
            for one, curve in zip(axes[row], curves(backtest.forecasts[other], name), strict=False):
                one.plot(curve.t, curve.y, color=MUTED, linewidth=1.2, linestyle=_DASHES[k % 3], zorder=2)
        _name_the_lines(axes[row, -1], backtest, name, own, naive, shade)
    _name_the_parts(axes[0, 0], backtest)
    return axes


def _dense_forecast(backtest: Any, own: str) -> Any:
    """The model's forecast, smooth where its times are shared by all trajectories."""
    at_points = backtest.forecasts[own]
    if at_points["time"].ndim != 1:
        return at_points
    end = float(np.max(backtest.model.times_))
    times = np.asarray(at_points["time"].values, dtype=float)
    grid = np.union1d(np.linspace(end, times[-1], 80)[1:], times)
    return backtest.model.predict(grid, interval=backtest.model.confidence)


def _name_the_lines(ax: Axes, backtest: Any, name: str, own: str, naive: list[str], shade: str) -> None:
    """Labels at the right ends, moved apart where they would overlap."""
    ends = [(own, _last(backtest.forecasts[own], name), shade, "bold")]
    ends += [(other, _last(backtest.forecasts[other], name), MUTED, "normal") for other in naive]
    low, high = ax.get_ylim()
    apart = 0.105 * (high - low)
    placed: list[float] = []
    for label, (t, y), ink, weight in sorted(ends, key=lambda e: e[1][1]):
        height = float(np.clip(y, low, high))
        if placed:
            height = max(height, placed[-1] + apart)
        placed.append(height)
        note(ax, t, height, label, ink, fontweight=weight, xytext=(7, 0), annotation_clip=False)


def _last(ds: Any, name: str) -> tuple[float, float]:
    curve = list(curves(ds, name))[-1]
    seen = np.flatnonzero(np.isfinite(curve.y))
    return (float(curve.t[-1]), float(curve.y[seen[-1]])) if seen.size else (float(curve.t[-1]), 0.0)


def _name_the_parts(ax: Axes, backtest: Any) -> None:
    """Say left and right of the cut which points the fit has seen."""
    across = ax.get_xaxis_transform()
    for text, side, shift in (("fitted", "right", -5), ("held out", "left", 5)):
        ax.annotate(
            text, (backtest.at, 1.0), xycoords=across, xytext=(shift, 3), textcoords="offset points",
            ha=side, va="bottom", fontsize=8.5, color=MUTED,
        )  # fmt: skip
