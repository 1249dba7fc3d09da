"""A few cells on which every function can be tried."""

from __future__ import annotations

import numpy as np

from scidyn.bridges.sc.h5ad import CellTable

__all__ = ["example_cells"]


def example_cells() -> CellTable:
    """Sixty cells of two lineages that part, twenty on each of three days.

    Returns
    -------
    CellTable
        With ``day`` and ``cell_type`` ("left" or "right") in ``obs`` and two features in ``obsm["X_pca"]``.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> sc.example_cells().n_obs
    60
    """
    import pandas as pd

    day = np.repeat([0, 1, 2], 20)
    table = pd.DataFrame({"day": day, "cell_type": np.tile(["left", "right"], 30)})
    side = np.where(table["cell_type"] == "right", 1.0, -1.0)
    return CellTable(table, {"X_pca": np.column_stack([side * (1 + day), day])})
