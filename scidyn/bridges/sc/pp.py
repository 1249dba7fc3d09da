"""Prepare: growth rates known beforehand."""

from __future__ import annotations

from typing import Any

import numpy as np

from scidyn.bridges.sc.tl.cells import writable
from scidyn.errors import DataError

__all__ = ["growth_prior"]


def growth_prior(
    adata: Any, *, proliferation: str = "proliferation", apoptosis: str = "apoptosis", key_added: str = "growth"
) -> None:
    """Net growth rates from gene scores by a birth–death model, per day.

    ``β(p) = 0.3 + 1.4 / (1 + exp(−(p − 0.25) / (0.5 / 4)))`` and the same for death with centre 0.1 and
    width 0.2; the rate is ``β − δ``.

    Parameters
    ----------
    adata : AnnData or CellTable
        With the two scores in ``obs``.
    proliferation, apoptosis : str
        Columns of ``obs``; a missing apoptosis column counts as score zero.
    key_added : str
        Column of ``obs`` to write.

    Raises
    ------
    scidyn.errors.DataError
        If the proliferation score is missing or not finite.

    Examples
    --------
    >>> import pandas as pd
    >>> from scidyn.bridges import sc
    >>> cells = sc.CellTable(pd.DataFrame({"proliferation": [-1.0, 1.0], "apoptosis": [0.0, 0.0]}))
    >>> sc.pp.growth_prior(cells)
    >>> bool(cells.obs["growth"].iloc[1] > cells.obs["growth"].iloc[0])
    True

    References
    ----------
    G. Schiebinger et al., Optimal-transport analysis of single-cell gene expression, Cell 176, 2019.
    """
    writable(adata)
    if proliferation not in adata.obs:
        raise DataError(f"obs has no column {proliferation!r}; score the cells' proliferation genes first.")
    score = np.asarray(adata.obs[proliferation], dtype=float)
    if not np.isfinite(score).all():
        raise DataError(f"obs[{proliferation!r}] has {int((~np.isfinite(score)).sum())} values that are not finite.")
    death = np.asarray(adata.obs[apoptosis], dtype=float) if apoptosis in adata.obs else np.zeros_like(score)
    adata.obs[key_added] = _logistic(score, 0.25, 0.5) - _logistic(death, 0.1, 0.2)


def _logistic(score: np.ndarray, centre: float, width: float) -> np.ndarray:
    return 1.0 + 0.7 * np.tanh((score - centre) / (width / 2))  # the logistic function, without overflow
