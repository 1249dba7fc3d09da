"""AnnData objects that are in memory already; anndata itself is not imported."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice
from scidyn.data.io.safety import BUDGET
from scidyn.data.readers import anndata_file
from scidyn.data.split import GROUPS
from scidyn.errors import DataError, OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["from_anndata"]


def from_anndata(
    adata: Any,
    *,
    time: str | None = None,
    rep: str | None = None,
    weight: str | None = None,
    time_map: Mapping[str, float] | None = None,
    units: Mapping[str, str] | str | None = None,
) -> xr.Dataset:
    """Cells with their times from an AnnData object or an ``.h5ad`` file.

    Parameters
    ----------
    adata : anndata.AnnData, str or Path
        An object with ``obs``, ``obsm`` and ``X``, or a file.
    time : str, optional
        Column of ``obs``; default: the one whose name is a word for time.
    rep : str, optional
        ``"X"`` or an entry of ``obsm``; default ``X_pca`` if there, else ``X``.
    weight : str, optional
        Column of ``obs`` with weights of the cells.
    time_map : mapping, optional
        Label to time, where labels hold no number.
    units : mapping or str, optional
        Units of ``"time"`` and of the representation.

    Returns
    -------
    xarray.Dataset
        Kind ``snapshots``: a copy, so that the object may change.

    Raises
    ------
    scidyn.errors.DataError
        If times cannot be read, or X is too large as a full matrix.
    scidyn.errors.OptionError
        If a column or a representation is not there.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> import numpy as np, pandas as pd, scidyn
    >>> cells = SimpleNamespace(
    ...     obs=pd.DataFrame({"day": ["d2", "d2", "d7"]}),
    ...     obsm={"X_pca": np.ones((3, 2))},
    ...     X=np.ones((3, 4)),
    ...     var_names=list("abcd"),
    ... )  # what an AnnData object offers
    >>> scidyn.data.from_anndata(cells)["time"].values.tolist()
    [2.0, 2.0, 7.0]
    """
    hints = {"time": time, "rep": rep, "weight": weight, "time_map": time_map, "units": units}
    if isinstance(adata, str | Path):
        return anndata_file.read(Path(adata), **hints)  # type: ignore[arg-type]  # hints go through as they came
    missing = [name for name in ("obs", "obsm", "X") if not hasattr(adata, name)]
    if missing:
        raise OptionError(f"adata must be an AnnData object or a path; {type(adata).__name__} has no {missing[0]}.")
    source = Path("adata")
    columns = [str(c) for c in adata.obs.columns]
    clock = anndata_file.clock(columns, time, source)
    times, unit = anndata_file.times(_labels(adata.obs[clock]), clock, time_map, source)
    chosen = rep or ("X_pca" if "X_pca" in adata.obsm else "X")
    choice("rep", chosen, ("X", *map(str, adata.obsm)))
    matrix = _dense(adata.X if chosen == "X" else adata.obsm[chosen], chosen)
    extra: dict[str, Any] = {g: ("cell", _labels(adata.obs[g])) for g in (*GROUPS, "batch") if g in columns}
    if weight is not None:
        choice("weight", weight, columns)
        extra["weight"] = ("cell", np.asarray(adata.obs[weight], dtype=float), {"units": "1"})
    stem = chosen.removeprefix("X_")
    genes = [f"{stem}{k + 1}" for k in range(matrix.shape[1])]
    if chosen == "X" and hasattr(adata, "var_names"):
        genes = [str(v) for v in adata.var_names]
    return anndata_file.snapshots(matrix, times, unit, genes, extra, rep=chosen, source="AnnData object", units=units)


def _labels(column: Any) -> np.ndarray:
    """A column of obs as numbers or text; categories lose their codes."""
    values = np.asarray(column)
    return values if values.dtype.kind in "fiu" else np.array([str(v) for v in values])


def _dense(matrix: Any, rep: str) -> np.ndarray:
    shape = tuple(matrix.shape)
    if len(shape) != 2 or shape[0] * shape[1] * 8 > BUDGET:
        raise DataError(f"{rep} has shape {shape}, more than {BUDGET / 2**30:g} GiB as a full matrix; choose rep=….")
    full = matrix.toarray() if hasattr(matrix, "toarray") else np.asarray(matrix)
    return np.array(full, dtype=full.dtype if full.dtype.kind == "f" else float)
