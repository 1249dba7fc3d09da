"""Who descends from whom: couplings and fates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scidyn._check.values import integer
from scidyn.bridges.sc.tl.bridge import stored_sinkhorn_bridge
from scidyn.bridges.sc.tl.cells import writable
from scidyn.errors import DataError, OptionError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["couplings", "fate"]


def couplings(adata: Any, *, key: str = "bridge", topk: int = 50, fitted: Any = None) -> list[Any]:
    """Likely descendants of every cell: one sparse matrix per interval, rows summing to one.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    topk : int
        Descendants kept per cell.
    fitted : SinkhornBridge, optional
        What :func:`bridge` returned.

    Returns
    -------
    list of scipy.sparse.csr_array, each of shape (cells of one time, cells of the next)
        Also kept in ``uns[key]["couplings"]``, named ``"0"``, ``"1"``, …

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> links = sc.tl.couplings(cells, topk=3, fitted=fitted)
    >>> len(links), links[0].shape, links[0].nnz
    (2, (20, 20), 60)
    """
    from scipy.sparse import csr_array

    writable(adata)
    model, cells, _ = stored_sinkhorn_bridge(adata, key, fitted)
    count, out = integer("topk", topk, at_least=1), []
    for k in range(len(cells) - 1):
        plan = model.link(k).plan
        column, value, _ = plan.topk(count)
        value = value / value.sum(dim=1, keepdim=True)
        row = np.repeat(np.arange(len(value)), value.shape[1])
        out.append(csr_array((value.reshape(-1).numpy(), (row, column.reshape(-1).numpy())), shape=plan.shape))
    adata.uns[key] = {**adata.uns[key], "couplings": {str(k): m for k, m in enumerate(out)}}
    return out


def fate(
    adata: Any,
    *,
    key: str = "bridge",
    groups: str = "cell_type",
    terminal: Sequence[str] | None = None,
    fitted: Any = None,
) -> pd.DataFrame:
    """Probability that a cell's descendants at the last time belong to each group.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    groups : str
        Column of ``obs`` with the groups.
    terminal : sequence of str, optional
        Groups to follow; default all that the last time has.
    fitted : SinkhornBridge, optional
        What :func:`bridge` returned.

    Returns
    -------
    pandas.DataFrame
        Cells × groups; also in ``obsm[key + "_fate"]``, and the entropy in ``obs[key + "_entropy"]``.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> table = sc.tl.fate(cells, fitted=fitted)
    >>> [float(p) for p in table.iloc[0].round(2)]
    [1.0, 0.0]
    """
    import pandas as pd

    writable(adata)
    model, cells, rows = stored_sinkhorn_bridge(adata, key, fitted)
    if groups not in adata.obs:
        raise DataError(f"obs has no column {groups!r}; its columns are {[str(c) for c in adata.obs.columns]}.")
    labels = np.asarray(adata.obs[groups]).astype(str)
    known = sorted(set(labels[rows[-1]]))
    wanted = known if terminal is None else [str(g) for g in terminal]
    absent = [g for g in wanted if g not in known]
    if absent:
        raise OptionError(f"No cell of the last time belongs to {absent[0]!r}; its groups are {known}.")
    p = torch.as_tensor((labels[rows[-1]][:, None] == np.array(wanted)[None]).astype(float))
    out = np.full((len(labels), len(wanted)), np.nan)
    out[rows[-1]] = p.numpy()
    for k in range(len(cells) - 2, -1, -1):
        p = model.link(k).average(p)
        out[rows[k]] = p.numpy()
    adata.obsm[f"{key}_fate"] = out
    safe = np.clip(out, 1e-300, 1.0)
    adata.obs[f"{key}_entropy"] = -(out * np.log(safe)).sum(axis=1)
    return pd.DataFrame(out, columns=wanted, index=getattr(adata.obs, "index", None))
