"""Open and complete h5ad files with h5py alone: what trajectories need of them."""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import h5py
    import pandas as pd

__all__ = ["CellTable", "read_h5ad", "write_results"]


@dataclass
class CellTable:
    """The parts of an AnnData object that trajectories use.

    Attributes
    ----------
    obs : pandas.DataFrame
        One row per cell.
    obsm : dict of str to ndarray of shape (cell, …)
        Representations.
    varm : dict of str to ndarray of shape (gene, …)
        Loadings.
    uns : dict
        Everything else.
    """

    obs: pd.DataFrame
    obsm: dict[str, np.ndarray] = field(default_factory=dict)
    varm: dict[str, np.ndarray] = field(default_factory=dict)
    uns: dict[str, Any] = field(default_factory=dict)

    @property
    def n_obs(self) -> int:
        """Number of cells."""
        return len(self.obs)


def read_h5ad(path: str | Path) -> CellTable:
    """Read ``obs``, ``obsm`` and ``varm`` of an h5ad file; the expression matrix stays on disk.

    Parameters
    ----------
    path : str or Path
        File written by anndata 0.8 or later.

    Returns
    -------
    CellTable

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file is missing or is not HDF5.
    scidyn.errors.DataError
        If it has no table of cells.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> sc.read_h5ad("no-such-file.h5ad")
    Traceback (most recent call last):
    scidyn.errors.ArtifactError: no-such-file.h5ad does not exist.
    """
    import h5py
    import pandas as pd

    path = Path(path)
    if not path.exists():
        raise ArtifactError(f"{path} does not exist.")
    try:
        file = h5py.File(path, "r")
    except OSError as error:
        raise ArtifactError(f"{path} is not an HDF5 file: {error}.") from error
    with file:
        if "obs" not in file:
            raise DataError(f"{path} has no table 'obs'; it is not an h5ad file.")
        obs = file["obs"]
        names = [str(n) for n in obs.attrs.get("column-order", [k for k in obs if k != obs.attrs.get("_index")])]
        columns = {n: _column(obs[n]) for n in names if n in obs}
        key = obs.attrs.get("_index", "_index")
        index = _text(obs[key][()]) if key in obs else None
        table = pd.DataFrame(columns, index=index)
        parts = {
            g: {k: v[()] for k, v in file[g].items() if isinstance(v, h5py.Dataset)}
            for g in ("obsm", "varm")
            if g in file
        }
    return CellTable(table, parts.get("obsm", {}), parts.get("varm", {}))


def _column(item: h5py.Dataset | h5py.Group) -> Any:
    import h5py
    import pandas as pd

    if isinstance(item, h5py.Group):
        if "codes" in item:
            categories = item["categories"][()]
            return pd.Categorical.from_codes(item["codes"][()], _text(categories))
        values = item["values"][()].astype(float)
        values[item["mask"][()].astype(bool)] = np.nan
        return values
    return _text(item[()])


def _text(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "SO":
        return np.array([v.decode() if isinstance(v, bytes) else v for v in values], dtype=object)
    return values


def write_results(cells: CellTable, source: str | Path, path: str | Path, *, overwrite: bool = False) -> Path:
    """Copy an h5ad file and add the columns of ``obs`` and entries of ``obsm`` that it lacks.

    Parameters
    ----------
    cells : CellTable
        With results.
    source : str or Path
        The h5ad file it was read from.
    path : str or Path
        File to write.
    overwrite : bool
        Replace a file that is there.

    Returns
    -------
    Path

    Raises
    ------
    scidyn.errors.ArtifactError
        If ``path`` exists and ``overwrite`` is False, or the disk refuses.

    Examples
    --------
    >>> from scidyn.bridges import sc
    >>> sc.write_results(None, "a.h5ad", "a.h5ad")
    Traceback (most recent call last):
    scidyn.errors.ArtifactError: a.h5ad is the source; name another file for the results.
    """
    import h5py

    from scidyn.data.io import atomic

    source, path = Path(source), Path(path)
    if source.absolute() == path.absolute():
        raise ArtifactError(f"{path} is the source; name another file for the results.")
    if path.exists() and not overwrite:
        raise ArtifactError(f"{path} exists; nothing was changed. Pass overwrite=True to replace it.")
    content = io.BytesIO(source.read_bytes())
    with h5py.File(content, "r+") as file:
        order = [str(n) for n in file["obs"].attrs.get("column-order", [])]
        for name in cells.obs.columns:
            if name not in file["obs"] and cells.obs[name].dtype.kind in "fiu":
                item = file["obs"].create_dataset(name, data=cells.obs[name].to_numpy())
                item.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
                order.append(name)
        file["obs"].attrs["column-order"] = np.array(order, dtype=h5py.string_dtype())
        for name, value in cells.obsm.items():
            if name not in file["obsm"]:
                item = file["obsm"].create_dataset(name, data=np.asarray(value))
                item.attrs.update({"encoding-type": "array", "encoding-version": "0.2.0"})
    return atomic.write_bytes(path, content.getvalue())
