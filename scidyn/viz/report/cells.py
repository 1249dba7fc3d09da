"""The report on trajectories of cells: paths, fates, growth, and scores on held-out times beside baselines."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io import atomic
from scidyn.errors import ArtifactError
from scidyn.viz.report.drawing import figure_block
from scidyn.viz.report.markup import Markup, tag
from scidyn.viz.report.sentences import join, number
from scidyn.viz.report.shell import document, section
from scidyn.viz.report.tables import mean_table, numbers_list, plain_table, scores_table

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["cells_report"]

SOLVERS = {
    "sinkhorn": "the Schrödinger bridge of a Brownian motion, without training",
    "flow": "flow matching along optimal-transport pairs",
    "sf2m": "score and flow matching along entropic pairs",
}
MOST_FATES = 6


def cells_report(
    adata: Any,
    path: str | Path,
    *,
    key: str = "bridge",
    basis: str | None = None,
    fates: pd.DataFrame | None = None,
    scores: pd.DataFrame | None = None,
    fitted: Any = None,
    overwrite: bool = False,
) -> Path:
    """Write one self-contained HTML file on a bridge through snapshots of cells.

    It holds paths over the embedding, distributions over time, fates, growth, scores on held-out times beside
    baselines that cost nothing, and provenance. It has no outside link, follows the reader's light or dark
    setting, and prints.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    path : str or Path
        The file to write.
    key : str
        Key of the bridge.
    basis : str, optional
        Embedding in ``obsm`` to draw over; default the representation of the bridge.
    fates : pandas.DataFrame, optional
        What :func:`scidyn.bridges.sc.tl.fate` returned.
    scores : pandas.DataFrame, optional
        What :func:`scidyn.bridges.sc.tl.evaluate` returned for one metric; without it the report says that the
        bridge was not judged.
    fitted : SinkhornBridge or FlowMatching, optional
        What :func:`scidyn.bridges.sc.tl.bridge` returned.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file exists and ``overwrite`` is False, or the disk refuses; nothing is changed then.
    scidyn.errors.NotFittedError
        If there is no bridge.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn import viz
    >>> from scidyn.bridges import sc
    >>> day = np.repeat([0, 1, 2], 20)
    >>> x = np.column_stack([np.tile([-1.0, 1.0], 30) * (1 + day), day])
    >>> cells = sc.CellTable(pd.DataFrame({"day": day}), {"X_pca": x})
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> viz.cells_report(cells, "cells.html", fitted=fitted).name
    'cells.html'
    """
    from scidyn.bridges import SinkhornBridge
    from scidyn.bridges.sc.tl.bridge import stored_bridge

    path = Path(path)
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; nothing was changed. Pass overwrite=True to replace it.")
    model, cells, rows = stored_bridge(adata, key, fitted)
    settings = adata.uns[key]
    grows = isinstance(model, SinkhornBridge) and (float(settings["tau"]) < 1 or bool(settings["growth_key"]))
    span = f"{cells.times[0]:g} to {cells.times[-1]:g}"
    sections = [
        _summary(cells, settings, model, scores, grows=grows),
        _paths(adata, key, basis, model),
        _marginals(adata, key, model, cells),
        _fates(adata, key, basis, fates, cells, rows),
        _growth(adata, key, basis, model) if grows else None,
        _scores(scores),
        _provenance(settings),
    ]
    lead = f"{sum(cells.sizes)} cells at {len(cells)} times, {settings['time_key']} {span}, in {settings['use_rep']}"
    return atomic.write_bytes(path, document("Trajectories of cells", lead, sections).encode())


def _panel(draw: Callable[..., Any], **options: Any) -> Callable[..., Any]:
    """Draw into the one panel of a figure."""

    def drawn(ax: Any) -> None:
        ax.set_size_inches(6.4, 4.4)
        draw(ax=ax.subplots(), **options)

    return drawn


def verdict(scores: pd.DataFrame | None) -> str:
    """Whether the bridge predicted times that it had not seen, against what costs nothing."""
    if scores is None:
        return "The bridge was not judged on held-out times."
    own, free = float(scores.loc["bridge", "one_step"]), float(scores.loc["interpolation", "one_step"])
    floor = float(scores.loc["floor", "one_step"])
    word = "is ahead of" if own < free else "is not ahead of"
    learned = "" if own < free else " Do not read more into its paths than into straight lines between matched cells."
    return (
        f"On held-out times the bridge {word} interpolation between matched cells: distance {number(own)} against "
        f"{number(free)}; two halves of the held-out cells are {number(floor)} apart.{learned}"
    )


def _summary(cells: Any, settings: Any, model: Any, scores: pd.DataFrame | None, *, grows: bool) -> Markup:
    growth = (
        "Lineages may grow or die; only relative growth can be told from sequencing."
        if grows
        else "Growth and death were not modelled: every cell leaves one cell's worth of descendants."
    )
    return section(
        "summary",
        "In short",
        tag("p", f"Neighbouring times were joined by {SOLVERS[settings['solver']]}. {growth}"),
        tag("p", verdict(scores)),
        numbers_list(
            [
                ("cells", str(sum(cells.sizes)), ""),
                ("times", str(len(cells)), ""),
                ("features", str(cells.dim), f"of {settings['use_rep']}"),
                ("noise", number(float(model.sigma_)), "per square root of time"),
            ]
        ),
    )


def _paths(adata: Any, key: str, basis: str | None, model: Any) -> Markup:
    from scidyn.bridges.sc import pl

    return section(
        "paths",
        "Paths",
        figure_block(
            "paths",
            _panel(pl.paths, adata=adata, key=key, basis=basis, fitted=model),
            alt="Cells coloured by time, with sampled paths of the bridge as lines.",
            caption="Dots: measured cells, coloured by time. Lines: paths drawn from the bridge. No cell was measured "
            "twice; a path is what the model says, not an observation.",
        ),
    )


def _marginals(adata: Any, key: str, model: Any, cells: Any) -> Markup:
    from scidyn.bridges.sc import pl

    def drawn(ax: Any) -> None:
        count = min(2, cells.dim)
        ax.set_size_inches(7.2, 3.0)
        for feature, panel in enumerate(np.atleast_1d(ax.subplots(1, count))):
            pl.marginals(adata, key=key, feature=feature, fitted=model, ax=panel)

    return section(
        "marginals",
        "Distributions over time",
        figure_block(
            "marginals",
            drawn,
            alt="Median and central nine tenths of the first features over time, measured and from the bridge.",
            caption="Points and bars: medians and central nine tenths of the measured cells. Line, band: the bridge.",
        ),
    )


def _fates(adata: Any, key: str, basis: str | None, fates: pd.DataFrame | None, cells: Any, rows: Any) -> Markup | None:
    if fates is None:
        return None
    from scidyn.bridges.sc import pl

    names = [str(n) for n in fates.columns]
    shown = names[:MOST_FATES]

    def drawn(ax: Any) -> None:
        across = min(3, len(shown))
        down = -(-len(shown) // across)
        ax.set_size_inches(2.6 * across + 0.4, 2.3 * down + 0.2)
        grid = ax.subplots(down, across, squeeze=False).ravel()
        for panel in grid[len(shown) :]:
            panel.set_axis_off()
        for column, panel in enumerate(grid[: len(shown)]):
            pl.fate(adata, key=key, column=column, basis=basis or adata.uns[key]["use_rep"], ax=panel)
            panel.set_title(shown[column], fontsize=9)

    values = fates.to_numpy()
    table = {f"{t:g}": values[r].mean(axis=0) for t, r in zip(cells.times.tolist(), rows, strict=True)}
    rest = f" The first {len(shown)} of {len(names)} are drawn." if len(names) > len(shown) else ""
    return section(
        "fates",
        "Fates",
        figure_block(
            "fates",
            drawn,
            alt=f"Probability of every cell that its descendants become {join(shown)}.",
            caption=f"Probability that a cell's descendants at the last time belong to each group.{rest}",
        ),
        mean_table(
            table, names, "Mean probability of each fate over the cells of a time", str(adata.uns[key]["time_key"])
        ),
    )


def _growth(adata: Any, key: str, basis: str | None, model: Any) -> Markup:
    from scidyn.bridges.sc import pl

    return section(
        "growth",
        "Growth",
        figure_block(
            "growth",
            _panel(pl.growth, adata=adata, key=key, basis=basis or adata.uns[key]["use_rep"], fitted=model),
            alt="Cells coloured by net growth rate relative to the population.",
            caption="Net growth rate relative to the population, per unit of time: red cells leave more descendants "
            "than the average, blue ones fewer.",
        ),
    )


def _scores(scores: pd.DataFrame | None) -> Markup | None:
    if scores is None:
        return None
    return section(
        "scores",
        "Held-out times",
        tag(
            "p",
            "Every inner time was left out in turn and predicted: from the cells of the time before it (one step), and "
            "from those of the first time (roll-out). Beside the bridge stand copies of the neighbouring times, "
            "interpolation between matched cells, and the floor: how far two halves of the held-out cells are apart.",
        ),
        scores_table(scores),
        tag("p", verdict(scores)),
    )


def _provenance(settings: Any) -> Markup:
    from datetime import UTC, datetime

    import scidyn

    plain = {k: v for k, v in settings.items() if isinstance(v, str | int | float)}
    made = {"scidyn": scidyn.__version__, "date": datetime.now(UTC).isoformat(timespec="seconds")}
    return section("provenance", "Provenance", plain_table({**plain, **made}))
