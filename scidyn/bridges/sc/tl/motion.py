"""Where cells go: velocities, and cells at times without a measurement."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from scidyn._check.values import integer
from scidyn.bridges.coupling import systematic
from scidyn.bridges.flow_matching import FlowMatching
from scidyn.bridges.sc.tl.bridge import stored_bridge
from scidyn.bridges.sc.tl.cells import writable
from scidyn.bridges.sinkhorn_bridge import SinkhornBridge
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import DataError, OptionError

if TYPE_CHECKING:
    import anndata
    import xarray as xr

__all__ = ["interpolate", "velocity"]


def velocity(adata: Any, *, key: str = "bridge", genes: bool = False, fitted: Any = None) -> None:
    """Velocity of every cell at its time, in the representation's units per time.

    Cells of the last time get the velocity at the end of the last interval: their own displacement is
    not observed.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge; ``obsm[key + "_velocity"]`` is written.
    key : str
        Key of the bridge.
    genes : bool
        Write ``layers[key + "_velocity"]`` too, the velocity of every gene through ``varm["PCs"]``: as large as
        the dense expression matrix. For an AnnData object and the principal components ``"X_pca"``.
    fitted : SinkhornBridge or FlowMatching, optional
        What :func:`bridge` returned.

    Raises
    ------
    scidyn.errors.DataError
        If ``adata`` is a view, or ``genes`` is asked for without loadings.
    scidyn.errors.NotFittedError
        If there is no bridge.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> sc.tl.velocity(cells, fitted=fitted)
    >>> cells.obsm["bridge_velocity"][0].round(1).tolist()
    [-1.0, 1.0]
    """
    writable(adata)
    model, cells, rows = stored_bridge(adata, key, fitted)
    loadings = _loadings(adata, key, cells.dim) if genes else None
    if genes and loadings is None:
        raise DataError('genes=True needs an AnnData object with varm["PCs"] and a bridge on use_rep="X_pca".')
    out = np.full((sum(len(r) for r in rows), cells.dim), np.nan)
    for k, r in enumerate(rows):
        x, t = cells.clouds[k], float(cells.times[k])
        if isinstance(model, FlowMatching):
            out[r] = model.velocity(t, x).numpy()
        elif k < len(rows) - 1:
            out[r] = model.drift(t, x).numpy()
        else:
            plan = model.link(k - 1).plan
            before = plan.transpose_apply(cells.clouds[k - 1]) / plan.column_sums().unsqueeze(1)
            out[r] = ((x - before) / float(cells.times[k] - cells.times[k - 1])).numpy()
    adata.obsm[f"{key}_velocity"] = out
    if loadings is not None:
        adata.layers[f"{key}_velocity"] = (out @ loadings.T).astype(np.float32)


def interpolate(
    adata: Any, *, key: str = "bridge", time: float, n: int | None = None, fitted: Any = None, seed: int = 0
) -> xr.Dataset | anndata.AnnData:
    """Draw cells at a time without a measurement, growing lineages as often as they weigh then.

    Parameters
    ----------
    adata : AnnData or CellTable
        With a bridge.
    key : str
        Key of the bridge.
    time : float
        Time inside the measured range.
    n : int, optional
        Number of cells; default those of the last measurement before.
    fitted : SinkhornBridge or FlowMatching, optional
        What :func:`bridge` returned.
    seed : int
        Seed of the draw.

    Returns
    -------
    xarray.Dataset or AnnData
        For a CellTable a Dataset of kind ``snapshots`` in the representation. For an AnnData object another one
        with the cells in ``obsm``, the time in ``obs``, and, if ``varm["PCs"]`` is there, expression as the mean
        over cells plus what the components explain.

    Raises
    ------
    scidyn.errors.OptionError
        If ``time`` is outside the measured range.
    scidyn.errors.NotFittedError
        If there is no bridge.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> cells = sc.example_cells()
    >>> fitted = sc.tl.bridge(cells, sigma=0.3)
    >>> between = sc.tl.interpolate(cells, time=0.5, n=8, fitted=fitted)
    >>> dict(between.sizes)
    {'cell': 8, 'feature': 2}
    """
    model, cells, _ = stored_bridge(adata, key, fitted)
    if not float(cells.times[0]) <= float(time) <= float(cells.times[-1]):
        raise OptionError(f"time must lie in [{cells.times[0]:g}, {cells.times[-1]:g}]; got {time:g}.")
    k = min(int(np.searchsorted(cells.times.numpy(), time, side="right")) - 1, len(cells) - 2)
    count = cells.sizes[k] if n is None else integer("n", n, at_least=1)
    weights = cells.weights[k]
    if isinstance(model, SinkhornBridge):
        weights = torch.softmax(weights.log() + model.growth(k) * (float(time) - float(cells.times[k])), dim=0)
    x = cells.clouds[k][systematic(weights, count, torch.Generator().manual_seed(seed))]
    moved = model.push(x, float(cells.times[k]), float(time), seed=seed)
    w = torch.full((len(moved),), 1.0 / len(moved), dtype=torch.float64)
    when = torch.tensor([float(time)], dtype=torch.float64)
    if not hasattr(adata, "layers"):
        return Snapshots((moved,), when, cells.features, (w,)).to_dataset()
    return _as_anndata(adata, key, moved.numpy(), float(time))


def _loadings(adata: Any, key: str, dims: int) -> np.ndarray | None:
    """Loadings of the genes on the components that the bridge lives in, (gene, dims)."""
    named = hasattr(adata, "layers") and "PCs" in adata.varm and adata.uns[key]["use_rep"] == "X_pca"
    return np.asarray(adata.varm["PCs"], dtype=float)[:, :dims] if named else None


def _as_anndata(adata: Any, key: str, x: np.ndarray, time: float) -> anndata.AnnData:
    """New cells in the form of the old ones."""
    import anndata
    import pandas as pd

    settings, loadings = adata.uns[key], _loadings(adata, key, x.shape[1])
    obs = pd.DataFrame({settings["time_key"]: np.full(len(x), time)}, index=[f"{key}-{i}" for i in range(len(x))])
    if loadings is None:
        new = anndata.AnnData(obs=obs)
    else:
        mean = np.asarray(adata.X[:].mean(axis=0)).reshape(-1)
        new = anndata.AnnData((mean + x @ loadings.T).astype(np.float32), obs=obs, var=adata.var[[]].copy())
    new.obsm[settings["use_rep"]] = x
    return new
