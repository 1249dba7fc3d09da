"""How the fit got where it ended."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.viz.style import MUTED, SERIES, note, panels, title

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["plot_convergence"]


def plot_convergence(model: Any, *, ax: Any = None) -> Axes:
    """Draw loss, and validation loss if there is one, over the iterations of the fit.

    Parameters
    ----------
    model : estimator
        A fitted model.
    ax : Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    scidyn.errors.NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> model = MechanisticODE(LotkaVolterra()).fit(scidyn.datasets.load("lynx_hare"))
    >>> scidyn.viz.plot_convergence(model).get_xlabel()
    'iteration'
    """
    history = model.history_
    (one,) = panels(ax, 1, 1, height=2.4).ravel()
    steps = np.asarray(history["iteration"].values, dtype=float)
    lines = [("loss", "training", SERIES[0])]
    if _has(history, "validation"):
        lines.append(("validation", "validation", SERIES[1]))
    values = {name: np.asarray(history[name].values, dtype=float) for name, _, _ in lines}
    everything = np.concatenate([v[np.isfinite(v)] for v in values.values()])
    if everything.size and everything.min() > 0 and everything.max() > 20 * everything.min():
        _logarithmic(one)
    few = "o" if steps.size <= 40 else ""
    for name, label, shade in lines:
        seen = np.isfinite(values[name])
        one.plot(steps[seen], values[name][seen], color=shade, linewidth=1.5, marker=few, markersize=3.6)
        if seen.any() and len(lines) > 1:
            note(one, steps[seen][-1], values[name][seen][-1], label, shade, annotation_clip=False)
    if _has(history, "validation") and np.isfinite(values["validation"]).any():
        kept = getattr(model, "provenance_", {}).get("training", {}).get("best_iteration")
        at = float(kept) if kept is not None else steps[int(np.nanargmin(values["validation"]))]
        one.axvline(at, color=MUTED, linewidth=0.8, linestyle=(0, (4, 3)))
        one.annotate(
            "kept", (at, 0.965), xycoords=one.get_xaxis_transform(), xytext=(4, 0),
            textcoords="offset points", va="top", fontsize=8.5, color=MUTED,
        )  # fmt: skip
    one.set(xlabel="iteration", ylabel="loss")
    title(one, "convergence of the fit")
    return one


def _has(history: Any, name: str) -> bool:
    return name in history and bool(np.isfinite(np.asarray(history[name].values, dtype=float)).any())


def _logarithmic(ax: Axes) -> None:
    """A log axis whose labels are plain numbers."""
    from matplotlib.ticker import FuncFormatter, NullFormatter

    ax.set_yscale("log")
    ax.yaxis.set_major_formatter(FuncFormatter(lambda v, _: f"{v:g}"))
    ax.yaxis.set_minor_formatter(NullFormatter())
