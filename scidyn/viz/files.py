"""Figures to files: complete or absent, never half."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import numpy as np

from scidyn._check.values import choice
from scidyn.data.io import atomic
from scidyn.errors import ArtifactError
from scidyn.viz.style import quiet_settings

__all__ = ["figure_of", "save_figure"]

_FORMATS = (".png", ".svg", ".pdf")


def save_figure(ax: Any, path: str | Path, *, overwrite: bool = False, dpi: int = 160) -> Path:
    """Save the figure that holds ``ax``; the file is complete or absent.

    Parameters
    ----------
    ax : Axes, array of Axes or Figure
        What a ``plot_…`` function returned.
    path : str or Path
        Ends in ``.png``, ``.svg`` or ``.pdf``.
    overwrite : bool
        Replace a file that is there.
    dpi : int
        Dots per inch of a PNG.

    Returns
    -------
    Path

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file exists and ``overwrite`` is False, or the disk refuses; nothing is changed then.
    scidyn.errors.OptionError
        If the ending is not one of the three.

    Examples
    --------
    >>> import scidyn
    >>> axes = scidyn.viz.plot_record(scidyn.datasets.load("lynx_hare"))
    >>> scidyn.viz.save_figure(axes, "pelts.png").name
    'pelts.png'
    """
    path = Path(path)
    suffix = choice("the suffix of path", path.suffix.lower(), _FORMATS)
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; nothing was changed. Pass overwrite=True to replace it.")
    content = io.BytesIO()
    fixed = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(suffix)
    with quiet_settings():
        figure_of(ax).savefig(content, format=suffix[1:], dpi=dpi, metadata=fixed)
    return atomic.write_bytes(path, content.getvalue())


def figure_of(ax: Any) -> Any:
    """The top figure that holds axes, an array of axes, or a figure itself."""
    from matplotlib.figure import FigureBase

    thing = ax if isinstance(ax, FigureBase) else np.asarray(ax, dtype=object).ravel()[0].figure
    while thing is not thing.figure:
        thing = thing.figure
    return thing
