"""The canonical Dataset: which dims, which variables are states, which units."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scidyn.errors import DataError, ShapeError, TimeGridError, UnitsError

if TYPE_CHECKING:
    import numpy as np
    import xarray as xr

__all__ = ["CONVENTIONS", "KINDS", "ROLES", "SPACE", "from_arrays", "state_variables", "time_dim", "units_of"]

CONVENTIONS = "CF-1.11 scidyn-1"
KINDS = ("trajectories", "irregular", "snapshots", "pairs")
SPACE = ("x", "y", "z")
ROLES = ("state", "control", "parameter", "input", "output", "auxiliary")


def time_dim(ds: xr.Dataset) -> str:
    """The dim along which time runs: ``"time"``, or ``"obs"`` for irregular records."""
    return "obs" if ds.attrs.get("scidyn_kind") == "irregular" else "time"


def state_variables(ds: xr.Dataset) -> list[str]:
    """Names of the measured quantities, in order.

    Parameters
    ----------
    ds : xarray.Dataset
        Kind ``trajectories`` or ``irregular``.

    Returns
    -------
    list of str
        Numeric variables along time whose ``role`` is absent or ``"state"``.

    Raises
    ------
    scidyn.errors.DataError
        If there is none.

    Examples
    --------
    >>> import scidyn
    >>> scidyn.data.state_variables(scidyn.datasets.load("lynx_hare"))
    ['hare', 'lynx']
    """
    names = [
        str(name)
        for name, variable in ds.data_vars.items()
        if name != "mask"
        and variable.attrs.get("role", "state") == "state"
        and time_dim(ds) in variable.dims
        and variable.dtype.kind in "fiu"
    ]
    if not names:
        raise DataError(f"The Dataset has no measured variable along {time_dim(ds)!r}; it has {list(ds.data_vars)}.")
    return names


def exact_times(times: np.ndarray) -> np.ndarray:
    """A copy in float64; whole numbers that float64 cannot tell from their neighbours are refused.

    Raises
    ------
    scidyn.errors.TimeGridError
        For whole numbers beyond 2⁵³, such as nanoseconds since 1970.
    """
    import numpy as np

    if times.dtype.kind in "iu" and times.size and max(abs(int(times.min())), abs(int(times.max()))) > 2**53:
        far = int(times.min()) if abs(int(times.min())) > 2**53 else int(times.max())
        raise TimeGridError(
            f"time holds {far}, beyond the whole numbers that float64 holds exactly (2⁵³), so that neighbours would "
            "become one; subtract the first time before it is made a float."
        )
    return np.array(times, dtype=float)


def units_of(ds: xr.Dataset) -> dict[str, str]:
    """Units of time and of every data variable.

    Parameters
    ----------
    ds : xarray.Dataset
        A Dataset with ``units`` attributes.

    Returns
    -------
    dict of str to str
        Name to units, ``"time"`` included.

    Raises
    ------
    scidyn.errors.UnitsError
        If units are missing; all names are listed.

    Examples
    --------
    >>> import scidyn
    >>> scidyn.data.units_of(scidyn.datasets.load("lynx_hare"))["hare"]
    'thousand pelts'
    """
    wanted = ["time", *(str(n) for n in ds.data_vars if n != "mask" and ds[n].dtype.kind in "fiu")]
    units = {name: str(ds[name].attrs.get("units", "")).strip() for name in wanted if name in ds.variables}
    missing = [name for name, unit in units.items() if not unit]
    if missing:
        named = ", ".join(map(repr, missing))
        raise UnitsError(
            f"Units are missing for {named}; set them with ds[{missing[0]!r}].attrs['units'] = '…' "
            "('1' for a number without dimension)."
        )
    return units


def from_arrays(
    y: Any,
    t: Any,
    *,
    names: Sequence[str] | None = None,
    units: Sequence[str] | Mapping[str, str] | None = None,
    time_units: str | None = None,
    mask: Any = None,
) -> xr.Dataset:
    """Make a canonical Dataset from arrays.

    Parameters
    ----------
    y : array_like, shape (time,), (time, feature) or (trajectory, time, feature)
        Values; NaN means missing.
    t : array_like, shape (time,) or (trajectory, time)
        Times; two axes make a Dataset of kind ``irregular``, NaN-padded at the end of a row.
    names : sequence of str, optional
        One name per feature; default ``y0``, ``y1``, …
    units : sequence of str or mapping, optional
        Units per feature (``"1"`` for a number without dimension).
    time_units : str, optional
        Units of ``t``.
    mask : array_like of bool, shape of ``y``, optional
        True where a value was observed; others become NaN.

    Returns
    -------
    xarray.Dataset
        Checked with :func:`scidyn.data.validate`.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes do not fit.
    scidyn.errors.UnitsError
        If units are missing.
    scidyn.errors.DataError
        If values or times cannot be used.

    Examples
    --------
    >>> from scidyn.data import from_arrays
    >>> ds = from_arrays([[1.0], [0.5], [0.3]], [0, 1, 2], names=["dye"], units=["mg/L"], time_units="h")
    >>> ds["dye"].attrs["units"]
    'mg/L'
    """
    import numpy as np
    import xarray as xr

    from scidyn.data.validate import validate

    values = np.array(y, dtype=float)
    times = exact_times(np.asarray(t))
    if values.ndim == 1:
        values = values[:, None]
    if values.ndim not in (2, 3) or times.ndim not in (1, 2) or values.shape[-2] != times.shape[-1]:
        raise ShapeError(
            f"y has shape {np.shape(y)} and t {times.shape}; needed: (time, feature) with (time,), or "
            "(trajectory, time, feature) with (time,) or (trajectory, time)."
        )
    if mask is not None:
        observed = np.asarray(mask, dtype=bool)
        if observed.ndim == 1 and values.shape[-1] == 1:
            observed = observed[:, None]
        if observed.shape != values.shape:
            raise ShapeError(f"mask has shape {observed.shape}, y has {values.shape}.")
        _observed_nan(values, observed)
        values[~observed] = np.nan
    names = list(names) if names is not None else [f"y{k}" for k in range(values.shape[-1])]
    if len(names) != values.shape[-1] or len(set(names)) != len(names):
        raise ShapeError(f"names must be {values.shape[-1]} different names; got {names}.")
    given = dict(units) if isinstance(units, Mapping) else dict(zip(names, units or (), strict=False))

    irregular = times.ndim == 2
    if irregular and values.ndim != 3:
        raise ShapeError("t has two axes, so y needs three: (trajectory, time, feature).")
    along = ("obs",) if irregular else ("time",)
    dims = ("trajectory", *along) if values.ndim == 3 else along
    ds = xr.Dataset(
        {name: (dims, values[..., k], {"units": given.get(name, "")}) for k, name in enumerate(names)},
        coords={"time": (dims if irregular else along, times, {"units": time_units or ""})},
        attrs={"Conventions": CONVENTIONS, "scidyn_kind": "irregular" if irregular else "trajectories"},
    )
    if "trajectory" in ds.dims:
        ds = ds.assign_coords(trajectory=np.arange(ds.sizes["trajectory"]))
    validate(ds)
    return ds


def _observed_nan(values: Any, observed: Any) -> None:
    import numpy as np

    from scidyn.errors import NonFiniteError

    bad = observed & ~np.isfinite(values)
    if bad.any():
        where = [int(i) for i in np.argwhere(bad)[0]]
        raise NonFiniteError(
            f"y{where} is {values[tuple(where)]} but mask says it was observed "
            f"({int(bad.sum())} such entries); set mask to False there."
        )
