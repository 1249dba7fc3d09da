"""The one look of every figure: palette, type sizes, quiet axes; applied to axes, never to global settings."""

from __future__ import annotations

from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.errors import ShapeError

if TYPE_CHECKING:
    from collections.abc import Iterator

    from matplotlib.axes import Axes

__all__ = ["INK", "MUTED", "PAPER", "SERIES", "STREAM", "colour", "dress", "note", "panels", "quiet_settings", "title"]

# Okabe and Ito's palette, told apart with every common colour vision deficiency
# (M. Okabe and K. Ito, Color Universal Design, 2008), in the order of greatest contrast.
SERIES = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#b58900", "#56b4e9")
INK = "#1f2430"
MUTED = "#667085"
GRID = "#e4e7ec"
STREAM = "#b8c0cc"
PAPER = "#ffffff"

_SETTINGS: dict[str, Any] = {
    "font.family": "sans-serif",
    "font.sans-serif": ["DejaVu Sans"],
    "font.size": 9.5,
    "text.parse_math": False,  # names and units are data: a "$" in them is a dollar
    "text.color": INK,
    "axes.labelcolor": INK,
    "axes.linewidth": 0.8,
    "axes.unicode_minus": True,
    "figure.facecolor": PAPER,
    "axes.facecolor": PAPER,
    "savefig.facecolor": PAPER,
    "svg.fonttype": "none",
}


@contextmanager
def quiet_settings() -> Iterator[None]:
    """Hold the house settings while figures are made; the reader's own come back afterwards."""
    import matplotlib as mpl

    with mpl.rc_context(_SETTINGS):
        yield


def colour(k: int) -> str:
    """Colour of the k-th series."""
    return SERIES[k % len(SERIES)]


def panels(ax: Any, rows: int, columns: int, *, width: float = 7.2, height: float = 2.3, **grid: Any) -> np.ndarray:
    """Axes of shape ``(rows, columns)``: new ones, those given, or those made inside a given figure."""
    import matplotlib.pyplot as plt
    from matplotlib.figure import Figure, FigureBase

    size = (width, height * rows + 0.3)
    with quiet_settings():
        if ax is None:
            ax = plt.figure(figsize=size, layout="constrained")
        if isinstance(ax, FigureBase):
            if isinstance(ax, Figure) and not ax.axes:
                ax.set_size_inches(size)
            axes = ax.subplots(rows, columns, squeeze=False, **grid)
        else:
            given = np.asarray(ax, dtype=object)
            if given.size != rows * columns:
                raise ShapeError(
                    f"ax holds {given.size} axes and this figure needs {rows * columns} ({rows} by {columns}); "
                    "leave ax out or make them with plt.subplots."
                )
            axes = given.reshape(rows, columns)
    for one in axes.ravel():
        dress(one)
    return axes


def dress(ax: Axes) -> None:
    """Give one pair of axes the house look, whatever the settings when its ticks are drawn."""
    for side in ("top", "right"):
        ax.spines[side].set_visible(False)
    for side in ("left", "bottom"):
        ax.spines[side].set_color(MUTED)
        ax.spines[side].set_linewidth(0.8)
    ax.tick_params(which="both", color=MUTED, labelcolor=INK, labelsize=8.5, width=0.8, length=3)
    ax.grid(True, axis="y", color=GRID, linewidth=0.7)
    ax.set_axisbelow(True)
    for text in (ax.xaxis.label, ax.yaxis.label, ax.title, ax._left_title):
        text.set_parse_math(False)


def title(ax: Axes, text: str, shade: str = INK) -> None:
    """Name a panel at its top left, in the colour of what it shows."""
    ax.set_title(text, loc="left", color=shade, fontsize=10, fontweight="bold", pad=7)


def note(ax: Axes, x: float, y: float, text: str, shade: str = MUTED, **options: Any) -> Any:
    """Write a label beside what it names, in data coordinates."""
    settings = {"fontsize": 8.5, "color": shade, "va": "center", "xytext": (5, 0)} | options
    return ax.annotate(text, (x, y), textcoords="offset points", parse_math=False, **settings)
