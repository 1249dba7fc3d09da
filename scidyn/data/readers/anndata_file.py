"""AnnData files (.h5ad) of single cells, read with h5py alone: snapshots over time."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import did_you_mean
from scidyn.data.io.safety import BUDGET, MAGIC, check_hdf5, opened
from scidyn.data.readers.finish import finish
from scidyn.data.readers.headers import TIME_NAMES, split_units
from scidyn.data.readers.times import parse_times
from scidyn.data.schema import CONVENTIONS
from scidyn.data.split import GROUPS
from scidyn.errors import ArtifactError, DataError, OptionError, ScidynError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

__all__ = ["clock", "read", "snapshots", "sniff", "times"]


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is AnnData's: HDF5 with a table of cells and a matrix."""
    if not head.startswith(MAGIC):
        return 0.0
    try:
        with opened(path) as file:
            return 0.95 if "obs" in file and ("X" in file or "obsm" in file) else 0.0
    except ArtifactError:
        return 0.0


def read(
    path: Path,
    *,
    time: str | None = None,
    rep: str | None = None,
    weight: str | None = None,
    time_map: Mapping[str, float] | None = None,
    units: Mapping[str, str] | str | None = None,
) -> xr.Dataset:
    """Read cells with their times.

    Parameters
    ----------
    path : Path
        The file.
    time : str, optional
        Column of ``obs``; default: the one whose name is a word for time.
    rep : str, optional
        ``"X"`` or an entry of ``obsm``; default ``X_pca`` if there, else ``X``.
    weight : str, optional
        Column of ``obs`` with weights of the cells.
    time_map : mapping, optional
        Label to time, where labels hold no number.
    units : mapping, optional
        Units of ``"time"`` and of the representation.

    Raises
    ------
    ArtifactError
        If the file is truncated, damaged or unsafe.
    DataError
        If a column is missing or its times cannot be read.
    """
    check_hdf5(path, budget=None)
    try:
        with opened(path) as file:
            columns = _names(file["obs"])
            time_column = clock(columns, time, path)
            labels = _column(file["obs"], time_column)
            when, unit = times(labels, time_column, time_map, path)
            chosen = rep or ("X_pca" if "obsm" in file and "X_pca" in file["obsm"] else "X")
            matrix = _matrix(file, chosen, path)
            extra: dict[str, Any] = {g: ("cell", _column(file["obs"], g)) for g in (*GROUPS, "batch") if g in columns}
            if weight is not None:
                if weight not in columns:
                    raise OptionError(f"weight names {weight!r}; obs has {columns}.{did_you_mean(weight, columns)}")
                extra["weight"] = ("cell", np.asarray(_column(file["obs"], weight), dtype=float), {"units": "1"})
            genes = _feature_names(file, chosen, matrix.shape[1])
    except (KeyError, RuntimeError, ValueError, OSError, TypeError, AttributeError) as error:
        if isinstance(error, ScidynError):
            raise
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    if matrix.shape[0] != when.size:
        raise DataError(f"{path}: {chosen} has {matrix.shape[0]} rows, obs has {when.size}.")
    return snapshots(matrix, when, unit, genes, extra, rep=chosen, source=path.name, units=units)


def snapshots(
    matrix: np.ndarray,
    times: np.ndarray,
    time_units: str,
    names: Sequence[str],
    extra: Mapping[str, Any],
    *,
    rep: str,
    source: str,
    units: Mapping[str, str] | str | None,
) -> xr.Dataset:
    """Cells, their times and what else is known of them, as one checked Dataset."""
    import xarray as xr

    name = "X" if rep == "X" else rep.removeprefix("X_")
    ds = xr.Dataset(
        {name: (("cell", "feature"), matrix, {"units": "1"})},
        {"time": ("cell", times, {"units": time_units}), "feature": list(names), **extra},
        {"Conventions": CONVENTIONS, "scidyn_kind": "snapshots", "source": source},
    )
    return finish(ds, values=None, units=units)


def _names(obs: Any) -> list[str]:
    import h5py

    if isinstance(obs, h5py.Dataset):  # the oldest layout: one compound table
        return list(obs.dtype.names or ())
    return [str(k) for k in obs if k not in ("__categories", obs.attrs.get("_index", "_index"))]


def clock(columns: list[str], time: str | None, path: Path) -> str:
    """Which column of obs is time: the one named, else the one whose name is a word for it."""
    if time is not None:
        if time not in columns:
            raise OptionError(f"time names {time!r}; obs of {path} has {columns}.{did_you_mean(time, columns)}")
        return time
    found = [c for c in columns if c.lower() in (*TIME_NAMES, "timepoint", "time_point", "stage")]
    if len(found) != 1:
        raise DataError(f"Which column of obs is time in {path}? Name it with time=…; there are {columns}.")
    return found[0]


def _column(obs: Any, name: str) -> np.ndarray:
    """One column as numbers or text: plain, categorical (two layouts), or nullable."""
    import h5py

    if isinstance(obs, h5py.Dataset):
        return _text(obs[name])
    item = obs[name]
    if isinstance(item, h5py.Group):
        if "codes" in item:
            return _decoded(_text(item["categories"][()]), item["codes"][()])
        values = _text(item["values"][()])
        return np.where(item["mask"][()], np.nan, values.astype(float)) if "mask" in item else values
    if "__categories" in obs and name in obs["__categories"]:
        return _decoded(_text(obs["__categories"][name][()]), item[()])
    return _text(item[()])


def _decoded(categories: np.ndarray, codes: np.ndarray) -> np.ndarray:
    if categories.dtype.kind in "fiu":
        return np.where(codes < 0, np.nan, categories.astype(float)[codes])
    return np.array([categories[c] if c >= 0 else "" for c in codes])


def _text(values: np.ndarray) -> np.ndarray:
    if values.dtype.kind in "SO":
        return np.array([v.decode() if isinstance(v, bytes) else str(v) for v in values])
    return values


def times(labels: np.ndarray, clock: str, time_map: Mapping[str, float] | None, path: Path) -> tuple[np.ndarray, str]:
    """Times and their units from numbers, from labels such as "day 2", or by the map."""
    stated = split_units(clock)[1]
    if labels.dtype.kind in "fiu":
        return labels.astype(float), stated
    words = [str(v) for v in labels]
    if time_map is not None:
        missing = sorted(set(words) - set(map(str, time_map)))
        if missing:
            raise OptionError(f"time_map lacks {missing[0]!r}; the labels of {clock!r} are {sorted(set(words))}.")
        table = {str(k): float(v) for k, v in time_map.items()}
        return np.array([table[w] for w in words]), stated
    distinct = sorted(set(words))
    try:
        plain = {w: float(w) for w in distinct}
        return np.array([plain[w] for w in words]), stated
    except ValueError:
        pass
    stamps = parse_times(distinct, path.name, clock)
    if stamps is None:
        raise DataError(
            f"{path}: the labels {distinct[:6]} of {clock!r} hold no times; give them with "
            f"time_map={{{distinct[0]!r}: 0.0, …}}."
        )
    table = dict(zip(distinct, stamps.values.tolist(), strict=True))
    return np.array([table[w] for w in words]), stamps.units


def _matrix(file: h5py.File, rep: str, path: Path) -> np.ndarray:
    """Dense rows of X or of an embedding; sparse X is filled in if it fits."""
    import h5py

    embeddings = list(file["obsm"]) if "obsm" in file else []
    if rep != "X" and rep not in embeddings:
        raise OptionError(f"rep must be 'X' or one of {embeddings}; got {rep!r}.{did_you_mean(rep, embeddings)}")
    item = file["X"] if rep == "X" else file["obsm"][rep]
    if isinstance(item, h5py.Dataset):
        _fits(item.shape, item.dtype.itemsize, rep, path)
        return np.asarray(item[()], dtype=item.dtype if item.dtype.kind == "f" else float)
    from scipy import sparse

    kind = str(item.attrs.get("encoding-type", item.attrs.get("h5sparse_format", "csr")))
    shape = tuple(int(n) for n in item.attrs.get("shape", item.attrs.get("h5sparse_shape")))
    _fits(shape, 8, rep, path)
    parts = (item["data"][()], item["indices"][()], item["indptr"][()])
    build = sparse.csc_matrix if "csc" in kind else sparse.csr_matrix
    matrix = build(parts, shape=shape)
    matrix.check_format(full_check=True)
    return np.asarray(matrix.todense(), dtype=float)


def _fits(shape: tuple[int, ...], width: int, rep: str, path: Path) -> None:
    if len(shape) != 2 or int(np.prod(shape, dtype=object)) * width > BUDGET:
        raise ArtifactError(
            f"{path}: {rep} has shape {shape}, more than {BUDGET / 2**30:g} GiB as a full matrix; take an embedding "
            "with rep=…, such as 'X_pca'."
        )


def _feature_names(file: h5py.File, rep: str, count: int) -> list[str]:
    import h5py

    if rep == "X" and "var" in file and isinstance(file["var"], h5py.Group):
        key = file["var"].attrs.get("_index", "_index")
        if key in file["var"]:
            names = [str(v) for v in _text(file["var"][key][()])]
            if len(names) == count:
                return names
    stem = rep.removeprefix("X_")
    return [f"{stem}{k + 1}" for k in range(count)]
