"""Mean and variance of data that do not fit into memory, block by block."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from scidyn.data.disk import HDF5Windows
from scidyn.errors import DataError, NonFiniteError, ShapeError, SplitError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Moments", "moments"]

_BLOCK = 2 << 20


@dataclass(frozen=True)
class Moments:
    """Count, mean and sum of squared deviations per variable; two of them merge exactly.

    ``μ ← μ + δ n_b/N``, ``M ← M + M_b + δ² n n_b/N`` with ``δ = μ_b − μ``.

    Attributes
    ----------
    names : tuple of str
        Variables.
    count : numpy.ndarray, shape (variable,)
        n in float64; missing values are left out.
    mean : numpy.ndarray, shape (variable,)
        μ.
    squares : numpy.ndarray, shape (variable,)
        M.

    References
    ----------
    Chan, Golub & LeVeque 1983, The American Statistician 37, 242–247.

    Examples
    --------
    >>> import numpy as np
    >>> from scidyn.data import Moments
    >>> a, b = (Moments.of(("x",), np.array(v)[:, None]) for v in ([1.0, 2.0], [3.0, np.nan]))
    >>> float(a.merge(b).mean[0])
    2.0
    """

    names: tuple[str, ...]
    count: np.ndarray
    mean: np.ndarray
    squares: np.ndarray

    @classmethod
    def of(cls, names: tuple[str, ...], values: np.ndarray) -> Moments:
        """Moments of values (…, variable); NaN is missing."""
        if values.shape[-1] != len(names):
            raise ShapeError(f"values have {values.shape[-1]} columns for the {len(names)} names {names}.")
        flat = np.array(values, dtype=float).reshape(-1, len(names))
        total = _totals(flat)
        if flat.size and np.isfinite(total).all():  # nothing is missing: no mask, and everything in one place
            mean = total / len(flat)
            flat -= mean
            return cls(names, np.full(len(names), float(len(flat))), mean, _totals(np.square(flat, out=flat)))
        seen = ~np.isnan(flat)
        if np.isinf(flat).any():
            row, column = np.argwhere(np.isinf(flat))[0]
            raise NonFiniteError(
                f"{names[column]} has an infinite value in row {row} of the block; use NaN for missing."
            )
        count = seen.sum(0).astype(float)
        mean = np.where(seen, flat, 0.0).sum(0) / np.maximum(count, 1)
        squares = (np.where(seen, flat - mean, 0.0) ** 2).sum(0)
        return cls(names, count, mean, squares)

    def merge(self, other: Moments) -> Moments:
        """Moments of both sets of values together."""
        if self.names != other.names:
            raise ShapeError(f"Moments of {self.names} and of {other.names} do not merge.")
        total = self.count + other.count
        share = other.count / np.maximum(total, 1)
        gap = other.mean - self.mean
        return Moments(
            self.names, total, self.mean + gap * share, self.squares + other.squares + gap**2 * self.count * share
        )

    @property
    def variance(self) -> np.ndarray:
        """M/n, NaN where nothing was observed."""
        return np.where(self.count > 0, self.squares / np.maximum(self.count, 1), np.nan)

    def to_dict(self) -> Mapping[str, dict[str, float]]:
        """Count, mean and variance per variable."""
        return {
            name: {"count": float(n), "mean": float(m), "variance": float(v)}
            for name, n, m, v in zip(self.names, self.count, self.mean, self.variance, strict=True)
        }


def moments(source: xr.Dataset | str | Path) -> Moments:
    """Count, mean and variance of every measured variable, in one pass over blocks of a few megabytes.

    Parameters
    ----------
    source : xarray.Dataset, str or Path
        Training data: a Dataset, an HDF5 file or a shard folder of any size.

    Returns
    -------
    Moments

    Raises
    ------
    scidyn.errors.SplitError
        If a Dataset carries more than one value of ``split``.
    scidyn.errors.DataError
        If there is nothing to measure.

    Examples
    --------
    >>> import scidyn
    >>> found = scidyn.data.moments(scidyn.datasets.load("lynx_hare"))
    >>> round(float(found.mean[0]), 2)
    34.08
    """
    if not isinstance(source, str | Path):
        return _of_dataset(source)
    store = HDF5Windows(source)
    total: Moments | None = None
    names = tuple(store.names)
    for part in store.parts:
        width = part.dtype.itemsize * int(np.prod(part.inner, dtype=np.int64))
        rows = max(1, _BLOCK // max(width, 1))
        whole = tuple((0, n) for n in part.inner)
        first = np.zeros(1, dtype=np.int64)
        for trajectory, steps in enumerate(part.steps.tolist()):
            for start in range(0, steps, rows):
                piece = np.empty((1, min(rows, steps - start), *part.inner), dtype=part.dtype)
                columns = []
                for array in part.arrays:
                    array.fill(piece, first, first + trajectory, first + start, whole)
                    columns.append(_column(piece[0]))
                block = _side_by_side(names, columns)
                total = block if total is None else total.merge(block)
    if total is None:
        raise DataError(f"{source} holds no times.")
    return total


def _of_dataset(ds: xr.Dataset) -> Moments:
    from scidyn.data.convert import to_batch
    from scidyn.data.schema import state_variables

    if "split" in ds.variables and len(set(ds["split"].values.ravel().tolist())) > 1:
        raise SplitError("Statistics for scaling are taken from one split only; select it first.")
    batch = to_batch(ds)
    values = np.where(batch.mask.numpy(), batch.y.numpy(), np.nan)
    return Moments.of(tuple(state_variables(ds)), values)


def _totals(flat: np.ndarray) -> np.ndarray:
    """Sum of every column; one column is summed as a run of memory, in pairs."""
    with np.errstate(invalid="ignore", over="ignore"):
        return flat.reshape(-1).sum(keepdims=True) if flat.shape[1] == 1 else flat.sum(0)


def _column(values: np.ndarray) -> Moments:
    return Moments.of(("",), values[..., None])


def _side_by_side(names: tuple[str, ...], columns: list[Moments]) -> Moments:
    count, mean, squares = (np.concatenate([getattr(c, k) for c in columns]) for k in ("count", "mean", "squares"))
    return Moments(names, count, mean, squares)
