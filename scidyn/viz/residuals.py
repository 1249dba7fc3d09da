"""What the fit left over: along time, and against the normal distribution that the noise model assumes."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.errors import ShapeError
from scidyn.viz.series import curves, time_axis
from scidyn.viz.style import MUTED, colour, panels, title

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["plot_residuals", "standardised"]


def plot_residuals(model: Any, record: xr.Dataset, *, ax: Any = None) -> np.ndarray:
    r"""Draw standardised residuals over time, and their quantiles beside those of the normal distribution.

    A residual is ``(y − ŷ) / σ`` with normal noise and ``(ln y − ln ŷ) / σ`` with log-normal
    noise. A right model leaves a structureless band about zero on the left, nine in ten points
    inside ±1.64, and points along the diagonal on the right.

    Parameters
    ----------
    model : estimator
        Fitted to ``record``.
    record : xarray.Dataset
        What it was fitted to.
    ax : array of Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, shape (variable, 2)

    Raises
    ------
    scidyn.errors.ShapeError
        If ``record`` is not the record that the model was fitted to.
    scidyn.errors.NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> scidyn.viz.plot_residuals(MechanisticODE(LotkaVolterra()).fit(record), record).shape
    (2, 2)
    """
    names = list(model.variables_)
    axes = panels(ax, len(names), 2, height=2.1, sharey="row", gridspec_kw={"width_ratios": (2.1, 1)})
    for row, name in enumerate(names):
        left, right = axes[row]
        pieces = standardised(model, record, name)
        left.axhspan(-1.645, 1.645, color=MUTED, alpha=0.10, linewidth=0)
        left.axhline(0.0, color=MUTED, linewidth=0.8)
        for t, z in pieces:
            left.vlines(t, 0.0, z, color=colour(row), linewidth=1.0, alpha=0.6)
            left.plot(t, z, "o", color=colour(row), markersize=4.2)
        left.set_ylabel("standardised residual")
        title(left, name, colour(row))
        _quantiles(right, np.concatenate([z for _, z in pieces]), colour(row))
    for one in axes[:, 0]:
        time_axis(one, record)
    for one in axes[:-1, 0]:
        one.set_xlabel("")
    axes[-1, 1].set_xlabel("normal quantile")
    title(axes[0, 1], "against normal noise")
    return axes


def standardised(model: Any, record: xr.Dataset, name: str) -> list[tuple[np.ndarray, np.ndarray]]:
    """Times and standardised residuals of the observed values, one pair per trajectory."""
    spread = model.noise_std_
    sigma = float(spread.sel(variable=name)) if "variable" in spread.dims else float(spread[name])
    pieces = []
    for measured, fitted in zip(curves(record, name), curves(model.fitted_, name), strict=False):
        if measured.y.shape != fitted.y.shape:
            raise ShapeError(
                f"record has {measured.y.size} times and the model was fitted to {fitted.y.size}; "
                "pass the record that the model was fitted to."
            )
        if model.noise_model_ == "lognormal":
            with np.errstate(divide="ignore", invalid="ignore"):
                z = (np.log(measured.y) - np.log(fitted.y)) / sigma
        else:
            z = (measured.y - fitted.y) / sigma
        seen = np.isfinite(z)
        pieces.append((measured.t[seen], z[seen]))
    return pieces


def _quantiles(ax: Any, z: np.ndarray, shade: str) -> None:
    """Sorted residuals against normal quantiles at Blom's plotting positions (G. Blom, 1958)."""
    from scipy.special import ndtri

    if z.size == 0:
        return
    expected = ndtri((np.arange(1, z.size + 1) - 0.375) / (z.size + 0.25))
    edge = max(2.0, float(np.abs(expected).max()) * 1.08)
    ax.plot([-edge, edge], [-edge, edge], color=MUTED, linewidth=0.9)
    ax.plot(expected, np.sort(z), "o", color=shade, markersize=4.2)
    ax.set_xlim(-edge, edge)
    low, high = ax.get_ylim()
    ax.set_ylim(min(low, -edge), max(high, edge))
