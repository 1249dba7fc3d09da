"""Export: descendants over all times as one transition matrix, the form in which CellRank takes them."""

from __future__ import annotations

from typing import Any

import numpy as np

from scidyn.bridges.sc.tl import snapshots
from scidyn.errors import NotFittedError

__all__ = ["to_cellrank"]


def to_cellrank(adata: Any, *, key: str = "bridge") -> Any:
    """Transition matrix over all cells: descendants at the next time; cells of the last time stay where they are.

    Every row sums to one, in the order of ``adata.obs``. In CellRank:
    ``cellrank.kernels.PrecomputedKernel(matrix, adata=adata)``.

    Parameters
    ----------
    adata : AnnData or CellTable
        With couplings; run :func:`scidyn.bridges.sc.tl.couplings` first.
    key : str
        Key of the bridge.

    Returns
    -------
    scipy.sparse.csr_matrix, shape (cell, cell)

    Raises
    ------
    scidyn.errors.NotFittedError
        If there are no couplings.

    Examples
    --------
    >>> import numpy as np, pandas as pd
    >>> from scidyn.bridges import sc
    >>> day = np.tile([0, 1], 20)
    >>> cells = sc.CellTable(pd.DataFrame({"day": day}), {"X_pca": np.random.default_rng(0).normal(size=(40, 2))})
    >>> links = sc.tl.couplings(cells, fitted=sc.tl.bridge(cells), topk=5)
    >>> matrix = sc.to_cellrank(cells)
    >>> matrix.shape, bool(np.allclose(matrix.sum(axis=1), 1.0))
    ((40, 40), True)
    """
    from scipy.sparse import csr_matrix

    settings = adata.uns.get(key, {})
    if "couplings" not in settings:
        raise NotFittedError(f"uns[{key!r}] has no couplings; run sc.tl.couplings(adata, key={key!r}) first.")
    _, rows = snapshots(
        adata, time_key=settings["time_key"], use_rep=settings["use_rep"], n_dims=int(settings["n_dims"])
    )
    last = rows[-1]
    source, target, value = [last], [last], [np.ones(len(last))]
    for k in range(len(rows) - 1):
        link = settings["couplings"][str(k)].tocoo()
        source.append(rows[k][link.row])
        target.append(rows[k + 1][link.col])
        value.append(link.data)
    count = sum(len(r) for r in rows)
    place = (np.concatenate(source), np.concatenate(target))
    return csr_matrix((np.concatenate(value), place), shape=(count, count))
