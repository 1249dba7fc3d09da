"""The cells of each time: what every function reads of an AnnData object."""

from __future__ import annotations

from typing import Any

import numpy as np

from scidyn._check.values import integer
from scidyn.bridges.snapshots import Snapshots, numeric_times
from scidyn.errors import DataError, NonFiniteError, TimeGridError

__all__ = ["snapshots", "writable"]


def snapshots(
    adata: Any, *, time_key: str = "day", use_rep: str = "X_pca", n_dims: int | None = None
) -> tuple[Snapshots, list[np.ndarray]]:
    """Cells of each time, and their rows in ``adata``.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a time per cell in ``obs`` and a representation in ``obsm``.
    time_key : str
        Column of ``obs``: numbers, or text or categories that read as numbers.
    use_rep : str
        Entry of ``obsm``.
    n_dims : int, optional
        Use only the first columns of the representation.

    Returns
    -------
    tuple of Snapshots and list of ndarray of int

    Raises
    ------
    scidyn.errors.DataError
        If the column or the representation is missing, or a time has one cell.
    scidyn.errors.TimeGridError
        If times are not numbers.
    scidyn.errors.NonFiniteError
        If the representation has NaN.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> cells = sc.CellTable(pd.DataFrame({"day": [0, 0, 1, 1]}), {"X_pca": np.eye(4)})
    >>> sc.tl.snapshots(cells, n_dims=2)[0].sizes
    (2, 2)
    """
    if time_key not in adata.obs:
        raise DataError(f"obs has no column {time_key!r}; its columns are {[str(c) for c in adata.obs.columns]}.")
    if use_rep not in adata.obsm:
        raise DataError(f"obsm has no representation {use_rep!r}; it holds {sorted(adata.obsm)}.")
    when = numeric_times(np.asarray(adata.obs[time_key]))
    if not np.isfinite(when).all():
        row = int(np.flatnonzero(~np.isfinite(when))[0])
        raise TimeGridError(f"obs[{time_key!r}] of cell {row} is {when[row]}; drop the cells without a time.")
    x = np.asarray(adata.obsm[use_rep], dtype=float)
    x = x if n_dims is None else x[:, : integer("n_dims", n_dims, at_least=1)]
    if not np.isfinite(x).all():
        row = int(np.flatnonzero(~np.isfinite(x).all(axis=1))[0])
        raise NonFiniteError(f"obsm[{use_rep!r}] of cell {row} is not finite; drop such cells.")
    times = np.unique(when)
    rows = [np.flatnonzero(when == t) for t in times]
    return Snapshots.of([x[r] for r in rows], times), rows


def writable(adata: Any) -> None:
    """Refuse a view, which anndata would copy without a word as soon as something is written into it.

    Raises
    ------
    DataError
        If ``adata`` is a view of another object.
    """
    if getattr(adata, "is_view", False):
        raise DataError("adata is a view of another object; results would be lost to it: use adata = adata.copy().")
