"""The phase plane: orbit, measured states and the fitted vector field."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from scidyn.viz.fit import dense_fit
from scidyn.viz.series import MOST, axis_label, curves, time_label, with_units
from scidyn.viz.style import INK, MUTED, PAPER, SERIES, STREAM, note, panels, title

if TYPE_CHECKING:
    import xarray as xr
    from matplotlib.axes import Axes

__all__ = ["FixedPoint", "find_fixed_point", "plot_phase_plane"]

_GRID = 60


class FixedPoint(NamedTuple):
    """A state where the vector field vanishes, and how nearby states move."""

    state: np.ndarray
    kind: str


def plot_phase_plane(model: Any, record: xr.Dataset, *, variables: Any = None, ax: Any = None) -> Any:
    """Draw the fitted vector field as streamlines with the orbit, the measured states and the fixed point.

    With more than two states the plane is a slice: the others stand at their medians, or, where
    they were not measured, at their fitted initial values. With one variable its rate of change
    is drawn against its value.

    Parameters
    ----------
    model : estimator
        Fitted to ``record``; its ``vector_field(t, y)`` is in physical units.
    record : xarray.Dataset
        What it was fitted to.
    variables : sequence of str, optional
        The two variables of the plane; default the first two.
    ax : Axes or Figure, optional
        Where to draw; default a new figure.

    Returns
    -------
    matplotlib.axes.Axes

    Raises
    ------
    scidyn.errors.OptionError
        If ``variables`` names one that the model lacks.
    scidyn.errors.NotFittedError
        If the model is not fitted.

    Examples
    --------
    >>> import scidyn
    >>> from scidyn.sysid import MechanisticODE
    >>> from scidyn.systems import LotkaVolterra
    >>> record = scidyn.datasets.load("lynx_hare")
    >>> ax = scidyn.viz.plot_phase_plane(MechanisticODE(LotkaVolterra()).fit(record), record)
    >>> ax.get_xlabel()
    'hare (thousand pelts)'
    """
    from scidyn._check.values import choice

    names = list(model.variables_)
    chosen = [choice("variables", str(v), names) for v in variables] if variables is not None else names[:2]
    (one,) = panels(ax, 1, 1, width=5.6, height=4.4).ravel()
    columns = dict(zip(names, state_columns(model), strict=True))
    middle = middle_state(model, record)
    when = float(np.nanmin(record["time"].values))
    if len(chosen) == 1:
        return _rate_curve(one, model, record, chosen[0], columns[chosen[0]], middle, when)
    index = [columns[n] for n in chosen]
    fine = dense_fit(model, record, band=False)
    orbits = list(zip(curves(fine, chosen[0]), curves(fine, chosen[1]), strict=True))[:MOST]
    x, y = (
        _range([*(c.y for c in curves(record, name)), *(orbit[k].y for orbit in orbits)])
        for k, name in enumerate(chosen)
    )
    _streamlines(one, model, x, y, index, middle, when)
    for a, b in orbits:
        one.plot(a.y, b.y, color=SERIES[0], linewidth=2.0, zorder=3)
    _measured(one, record, chosen)
    point = find_fixed_point(model, middle, when)
    if point is not None:
        _mark(one, point, index, x, y)
    one.set(xlim=x, ylim=y, xlabel=axis_label(record, chosen[0]), ylabel=axis_label(record, chosen[1]))
    others = len(middle) - 2
    title(one, "fitted vector field and orbit" + ("; other states held" if others else ""))
    return one


def state_columns(model: Any) -> tuple[int, ...]:
    """Which component of the state each variable measures: its own place, unless a mechanism says otherwise."""
    states = getattr(model, "states_", None)
    return tuple(range(len(model.variables_))) if states is None else tuple(int(k) for k in states.values)


def middle_state(model: Any, record: xr.Dataset) -> np.ndarray:
    """A state in the middle of the data: medians of what was measured, initial values of what was not."""
    columns = state_columns(model)
    hidden = getattr(model, "initial_", None)
    size = max(columns) + 1 if hidden is None else hidden.sizes["state"]
    middle = np.zeros(size) if hidden is None else hidden["estimate"].mean("trajectory").values.astype(float)
    for name, column in zip(model.variables_, columns, strict=True):
        middle[column] = np.nanmedian(np.concatenate([c.y for c in curves(record, name)]))
    return middle


def find_fixed_point(model: Any, start: np.ndarray, when: float) -> FixedPoint | None:
    """Solve ``f(y) = 0`` from the middle of the data; None if the search does not end at a root."""
    from scipy.optimize import root

    def rate(state: np.ndarray) -> np.ndarray:
        return evaluate(model, state[None], when)[0]

    scale = np.maximum(np.abs(start), 1e-12)
    found = root(lambda z: rate(z * scale) / scale, np.ones_like(start))
    state = np.asarray(found.x) * scale
    speed = np.linalg.norm(rate(start) / scale)
    if not found.success or np.linalg.norm(rate(state) / scale) > 1e-6 * max(float(speed), 1e-12):
        return None
    steps = 1e-5 * np.maximum(np.abs(state), scale)
    columns = [(rate(state + d) - rate(state - d)) / (2 * s) for d, s in zip(np.diag(steps), steps, strict=True)]
    return FixedPoint(state, _kind(np.linalg.eigvals(np.stack(columns, axis=-1))))


def _kind(eigenvalues: np.ndarray) -> str:
    """Name of a fixed point by the eigenvalues of its Jacobian."""
    size = float(np.abs(eigenvalues).max())
    real = eigenvalues.real / size if size else eigenvalues.real
    turns = bool((np.abs(eigenvalues.imag) > 1e-4 * size).any())
    if (np.abs(real) < 1e-3).all():
        return "centre" if turns else "degenerate point"
    if (real > -1e-3).any() and (real < 1e-3).any() and real.max() > 1e-3 and real.min() < -1e-3:
        return "saddle"
    return f"{'stable' if real.max() < 1e-3 else 'unstable'} {'spiral' if turns else 'node'}"


def evaluate(model: Any, states: np.ndarray, when: float) -> np.ndarray:
    """The fitted vector field at rows of states, as an array."""
    import torch

    with torch.no_grad():
        rates = model.vector_field(
            torch.tensor(when, dtype=torch.float64, device="cpu"),
            torch.tensor(np.asarray(states), dtype=torch.float64, device="cpu"),
        )
    return np.asarray(rates.detach().cpu() if hasattr(rates, "detach") else rates, dtype=float)


def _range(values: list[np.ndarray]) -> tuple[float, float]:
    seen = np.concatenate(values)
    low, high = float(np.nanmin(seen)), float(np.nanmax(seen))
    margin = 0.08 * ((high - low) or 1.0)
    return (0.0 if low >= 0 and low < 0.3 * high else low - margin), high + margin


def _streamlines(
    ax: Axes,
    model: Any,
    x: tuple[float, float],
    y: tuple[float, float],
    index: list[int],
    middle: np.ndarray,
    when: float,
) -> None:
    xs, ys = np.linspace(*x, _GRID), np.linspace(*y, _GRID)
    states = np.broadcast_to(middle, (_GRID * _GRID, middle.size)).copy()
    states[:, index] = np.stack(np.meshgrid(xs, ys), axis=-1).reshape(-1, 2)
    rates = evaluate(model, states, when)[:, index].reshape(_GRID, _GRID, 2)
    rates = np.where(np.isfinite(rates), rates, 0.0)
    ax.streamplot(xs, ys, rates[..., 0], rates[..., 1], color=STREAM, density=0.85, linewidth=0.8, arrowsize=0.8)
    ax.grid(False)


def _measured(ax: Axes, record: xr.Dataset, chosen: list[str]) -> None:
    first = None
    for k, (a, b) in enumerate(zip(curves(record, chosen[0]), curves(record, chosen[1]), strict=True)):
        if k == MOST:
            break
        ax.plot(a.y, b.y, "o", color=INK, markersize=5.6, markeredgecolor=PAPER, markeredgewidth=0.9, zorder=4)
        seen = np.flatnonzero(np.isfinite(a.y) & np.isfinite(b.y))
        if first is None and seen.size:
            first = seen[0]
            when = f"{time_label(record).partition(' (')[0]} {a.t[first]:g}"
            note(ax, a.y[first], b.y[first], when, INK, xytext=(6, -7), zorder=6)


def _mark(ax: Axes, point: FixedPoint, index: list[int], x: tuple[float, float], y: tuple[float, float]) -> None:
    at = point.state[index]
    if not (x[0] <= at[0] <= x[1] and y[0] <= at[1] <= y[1]):
        return
    ax.plot(*at, marker="P", color=SERIES[1], markersize=9, markeredgecolor=PAPER, zorder=5, linestyle="none")
    note(ax, at[0], at[1], f"fixed point ({point.kind})", SERIES[1], xytext=(8, 8), zorder=6)


def _rate_curve(
    ax: Axes, model: Any, record: xr.Dataset, name: str, column: int, middle: np.ndarray, when: float
) -> Axes:
    low, high = _range([c.y for c in curves(record, name)])
    grid = np.linspace(low, high, 200)
    states = np.broadcast_to(middle, (grid.size, middle.size)).copy()
    states[:, column] = grid
    ax.plot(grid, evaluate(model, states, when)[:, column], color=SERIES[0], linewidth=1.8)
    ax.axhline(0.0, color=MUTED, linewidth=0.8)
    point = find_fixed_point(model, middle, when)
    if point is not None and low <= point.state[column] <= high:
        ax.plot(point.state[[column]], [0.0], "P", color=SERIES[1], markersize=9, markeredgecolor=PAPER)
        note(ax, point.state[column], 0.0, f"fixed point ({point.kind})", SERIES[1], xytext=(8, 10))
    units = f"{record[name].attrs.get('units', '1')}/{record['time'].attrs.get('units', '1')}"
    ax.set(xlabel=axis_label(record, name), ylabel=with_units(f"rate of {name}", units))
    title(ax, "fitted rate of change")
    return ax
