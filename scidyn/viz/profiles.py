"""Profile likelihoods: how much worse the fit becomes as one parameter is moved and the others refitted."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from scidyn.errors import DataError
from scidyn.viz.style import MUTED, SERIES, panels, title

__all__ = ["has_profiles", "plot_profiles", "threshold"]


def plot_profiles(model: Any, *, ax: Any = None) -> np.ndarray:
    r"""Draw the profile likelihood of every parameter with the threshold that defines its interval.

    The curve is the deviance ``2 (ℓ(θ̂) − max ℓ(θ | θ_k))``, zero at the estimate; the interval
    holds the values below the threshold: the quantile of χ² with one degree of freedom, corrected
    for few data where the fit says so. A parabola means that the standard error tells the same; a
    flat side means that the data do not bound the parameter.

    Parameters
    ----------
    model : estimator
        Fitted, with ``profiles_``.
    ax : array of Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    ndarray of matplotlib.axes.Axes, one per parameter

    Raises
    ------
    scidyn.errors.DataError
        If the model has no profiles, as a network has none.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> model = MechanisticODE(LotkaVolterra()).fit(scidyn.datasets.load("lynx_hare"))
    >>> len(scidyn.viz.plot_profiles(model))
    4

    References
    ----------
    A. Raue et al., Bioinformatics 25(15), 1923–1929, 2009.
    """
    if not has_profiles(model):
        raise DataError(
            f"{type(model).__name__} has no profile likelihoods; only models with parameters have, fitted with "
            "profile=True."
        )
    profiles = model.profiles_
    names = [str(n) for n in profiles["parameter"].values]
    columns = min(4, len(names))
    rows = math.ceil(len(names) / columns)
    cells = panels(ax, rows, columns, width=max(3.2, 2.15 * columns), height=2.25, sharey=True).ravel()
    limit = float(profiles.attrs.get("threshold", threshold(model.confidence)))
    for k, name in enumerate(names):
        _curve(cells[k], model, profiles, name, limit)
        if k % columns == 0:
            cells[k].set_ylabel("deviance")
    for spare in cells[len(names) :]:
        spare.set_axis_off()
    cells[0].set_ylim(-0.06 * limit, 1.55 * limit)
    return cells[: len(names)]


def has_profiles(model: Any) -> bool:
    """Whether a fit left profile likelihoods."""
    profiles = getattr(model, "profiles_", None)
    return profiles is not None and profiles.sizes.get("point", 0) > 0


def threshold(confidence: float) -> float:
    """The ``confidence`` quantile of χ² with one degree of freedom."""
    from scipy.special import ndtri

    return float(ndtri(0.5 + confidence / 2.0)) ** 2


def _curve(ax: Any, model: Any, profiles: Any, name: str, limit: float) -> None:
    one, table = profiles.sel(parameter=name), model.parameters_.sel(parameter=name)
    value = np.asarray(one["value"].values, dtype=float)
    deviance = np.asarray(one["deviance"].values, dtype=float)
    seen = np.isfinite(value) & np.isfinite(deviance)
    units = str(table["units"].item())
    lower, upper = float(table["lower"]), float(table["upper"])
    if math.isfinite(lower) and math.isfinite(upper):
        ax.axvspan(lower, upper, color=SERIES[0], alpha=0.10, linewidth=0)
    ax.axhline(limit, color=SERIES[1], linewidth=1.0, linestyle=(0, (5, 3)))
    x, y = _smooth(value[seen], deviance[seen], float(table["estimate"]))
    ax.plot(x, y, color=SERIES[0], linewidth=1.8)
    ax.plot(value[seen], deviance[seen], ".", color=SERIES[0], markersize=4)
    ax.plot([float(table["estimate"])], [0.0], "o", color=SERIES[0], markersize=5.5, clip_on=False)
    ax.annotate(
        f"{round(100 * model.confidence)} %", (0.5, limit), xycoords=ax.get_yaxis_transform(), xytext=(0, 3),
        textcoords="offset points", ha="center", fontsize=8, color=SERIES[1],
    )  # fmt: skip
    ax.set_xlabel(units if units != "1" else "", fontsize=8.5, color=MUTED)
    ax.locator_params(axis="x", nbins=4)
    title(ax, name)


def _smooth(value: np.ndarray, deviance: np.ndarray, estimate: float) -> tuple[np.ndarray, np.ndarray]:
    """A curve through few points: monotone interpolation of the signed root, which is nearly straight."""
    from scipy.interpolate import PchipInterpolator

    value, first = np.unique(value, return_index=True)
    root = np.sign(value - estimate) * np.sqrt(np.maximum(deviance[first], 0.0))
    if value.size < 3:
        return value, deviance[first]
    fine = np.linspace(value[0], value[-1], 121)
    return fine, PchipInterpolator(value, root)(fine) ** 2
