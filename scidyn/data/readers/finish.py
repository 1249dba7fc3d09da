"""What every reader does last: stated units, chosen variables, the check."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from scidyn._check.values import did_you_mean
from scidyn.data.validate import validate
from scidyn.errors import OptionError, UnitsError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["finish", "kept", "taken_rows"]


def finish(
    ds: xr.Dataset,
    *,
    values: Sequence[str] | None,
    units: Mapping[str, str] | str | None,
    source: str | None = None,
) -> xr.Dataset:
    """Set the units that the user states, keep the variables that the user names, and validate.

    Raises
    ------
    OptionError
        If ``units`` or ``values`` names what is not there.
    DataError
        If the Dataset cannot be used.
    """
    if isinstance(units, str):
        units = {n: units for n in _without_units(ds)}
    for name, unit in dict(units or {}).items():
        if name not in ds.variables:
            raise OptionError(
                f"units names {name!r}; the file holds {[str(v) for v in ds.variables]}."
                f"{did_you_mean(name, map(str, ds.variables))}"
            )
        ds[name].attrs["units"] = unit
    if values is not None:
        ds = kept(ds, values)
    try:
        validate(ds)
    except UnitsError as error:
        missing = _without_units(ds)
        example = ", ".join(f"{n!r}: '…'" for n in missing)
        raise UnitsError(
            f"{source or ds.attrs.get('source', 'The file')} names no units for {', '.join(map(repr, missing))}; pass "
            f"units={{{example}}}, or units='1' if nothing has a dimension."
        ) from error
    return ds


def kept(ds: xr.Dataset, values: Sequence[str]) -> xr.Dataset:
    """The variables that the user names, those of another role, and the mask."""
    names = [str(v) for v in ds.data_vars]
    for name in values:
        if name not in names:
            raise OptionError(f"values names {name!r}; the file holds {names}.{did_you_mean(name, names)}")
    roles = ("parameter", "control", "input")
    return ds[[n for n in names if n in values or n == "mask" or ds[n].attrs.get("role") in roles]]


def _without_units(ds: xr.Dataset) -> list[str]:
    numbers = [str(n) for n, v in ds.data_vars.items() if n != "mask" and v.dtype.kind in "fiu"]
    wanted = ["time", *numbers] if "time" in ds.variables else numbers
    return [n for n in wanted if not str(ds[n].attrs.get("units", "")).strip()]


def taken_rows(rows: Any, count: int) -> slice:
    """``rows=(start, stop)`` as a slice of ``count`` trajectories; None takes all."""
    if rows is None:
        return slice(0, count)
    try:
        start, stop = (int(v) for v in rows)
    except (TypeError, ValueError):
        raise OptionError(f"rows must be (start, stop); got {rows!r}.") from None
    if not 0 <= start < stop <= count:
        raise OptionError(f"rows must satisfy 0 <= start < stop <= {count}; got {rows!r}.")
    return slice(start, stop)
