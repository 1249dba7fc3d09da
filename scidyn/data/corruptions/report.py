"""Judge whether a model knows how wrong it is, under each kind of corruption."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING

import numpy as np

from scidyn._check.values import number
from scidyn.data.schema import state_variables, units_of
from scidyn.errors import DataError, ShapeError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["robustness_report"]


def robustness_report(
    predict: Callable[[xr.Dataset], tuple[xr.Dataset, xr.Dataset]],
    records: Mapping[str, xr.Dataset],
    *,
    level: float = 0.95,
) -> xr.Dataset:
    """Judge predictions and their stated variance on records that were corrupted in different ways.

    Parameters
    ----------
    predict : callable
        ``predict(record) -> (mean, variance)``: for every observed value its prediction from what was
        seen before it, and the variance that the model gives it; NaN where it makes none.
    records : mapping of str to xarray.Dataset
        Name of the corruption to the corrupted record.
    level : float
        Probability of the central normal interval that coverage is counted for.

    Returns
    -------
    xarray.Dataset
        Over ``corruption`` × ``variable``: ``rmse`` (units of the variable); ``variance_ratio``, mean
        stated variance over mean squared error, 1 for a model that knows its errors and 0 for one that
        claims to have none; ``coverage``, the share of values inside the interval; ``count``.

    Raises
    ------
    scidyn.errors.DataError
        If nothing was predicted, or a variance is negative.
    scidyn.errors.ShapeError
        If predictions have another shape than the record.

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> from scidyn.data.corruptions import robustness_report
    >>> y = np.random.default_rng(0).normal(size=(50, 100, 1))
    >>> ds = scidyn.data.from_arrays(y, np.arange(100), names=["x"], units=["m"], time_units="s")
    >>> report = robustness_report(lambda r: (r * 0, r * 0 + 1), {"white noise": ds})
    >>> round(float(report["variance_ratio"][0, 0]), 1)
    1.0
    """
    import xarray as xr
    from scipy.stats import norm

    number("level", level, above=0, below=1)
    half = float(norm.ppf(0.5 + level / 2))
    names = list(dict.fromkeys(n for ds in records.values() for n in state_variables(ds)))
    shape = (len(records), len(names))
    table = {key: np.full(shape, np.nan) for key in ("rmse", "variance_ratio", "coverage", "count")}
    for row, (label, ds) in enumerate(records.items()):
        mean, variance = predict(ds)
        for name in state_variables(ds):
            column = names.index(name)
            found = _judged(ds[name].values, mean[name].values, variance[name].values, half, f"{label}: {name}")
            for key, value in found.items():
                table[key][row, column] = value
    units = units_of(next(iter(records.values())))
    return xr.Dataset(
        {key: (("corruption", "variable"), values) for key, values in table.items()},
        {
            "corruption": list(records),
            "variable": names,
            "units": ("variable", [units.get(n, "") for n in names]),
        },
        {"level": level},
    )


def _judged(y: np.ndarray, mean: np.ndarray, variance: np.ndarray, half: float, where: str) -> dict[str, float]:
    if mean.shape != y.shape or variance.shape != y.shape:
        raise ShapeError(f"{where}: the prediction has shape {mean.shape} and {variance.shape}, the record {y.shape}.")
    used = np.isfinite(y) & np.isfinite(mean) & np.isfinite(variance)
    if not used.any():
        raise DataError(f"{where}: no value was predicted.")
    if (variance[used] < 0).any():
        raise DataError(f"{where}: {int((variance[used] < 0).sum())} stated variances are negative.")
    error = (y - mean)[used]
    square = float((error**2).mean())
    return {
        "rmse": square**0.5,
        "variance_ratio": float(variance[used].mean()) / square if square else np.nan,
        "coverage": float((np.abs(error) <= half * np.sqrt(variance[used])).mean()),
        "count": float(used.sum()),
    }
