"""Data frames, wide or long, to canonical Datasets."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import choice, did_you_mean
from scidyn.data.readers.assemble import cells, labels, trajectories
from scidyn.data.readers.headers import TIME_NAMES, split_units
from scidyn.data.readers.times import Stamps, canonical_unit, parse_times
from scidyn.data.validate import validate
from scidyn.errors import DataError, OptionError, TimeGridError, UnitsError

if TYPE_CHECKING:
    import pandas as pd
    import xarray as xr

__all__ = ["from_table"]

_MISSING = {"", "na", "nan", "n/a", "null", "none", "-", "–", "."}
_ENTRY = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
_PLAIN = re.compile(rf"(?:{_ENTRY.pattern}\n)*", re.ASCII)


def from_table(
    df: pd.DataFrame,
    *,
    time: str | None = None,
    id: str | None = None,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    layout: str = "auto",
    kind: str | None = None,
    decimal: str = ".",
) -> xr.Dataset:
    """Make a canonical Dataset from a data frame.

    Parameters
    ----------
    df : pandas.DataFrame
        Wide (one column per quantity) or long (columns for time, variable and value).
    time : str, optional
        Column of times; default: the one column whose name is a word for time.
    id : str, optional
        Column that names the replicate; each value becomes one trajectory.
    values : sequence of str, optional
        Columns to keep; default all numeric ones.
    units : mapping or str, optional
        Name to units, ``"time"`` or the time column included; wins over units in headers. One word is
        the units of all columns that have none.
    layout : {"auto", "wide", "long"}
        ``auto`` takes ``long`` if there are columns ``variable`` and ``value``.
    kind : {"snapshots"}, optional
        A row is a cell that was measured once, so times repeat and rows have no order.
    decimal : str
        Decimal sign of text cells.

    Returns
    -------
    xarray.Dataset
        Kind ``trajectories`` if all replicates share their times, else ``irregular``.

    Raises
    ------
    scidyn.errors.DataError
        A bad cell (row and column named), an unknown column, a repeated (id, time).
    scidyn.errors.TimeGridError
        Times that do not increase.
    scidyn.errors.UnitsError
        Units that are missing; all columns are listed.

    Examples
    --------
    >>> import pandas as pd
    >>> from scidyn.data import from_table
    >>> table = pd.DataFrame({"time (h)": [0, 1, 2], "dye (mg/L)": [1.0, 0.6, 0.4]})
    >>> from_table(table)["dye"].attrs["units"]
    'mg/L'
    """
    choice("layout", layout, ("auto", "wide", "long"))
    choice("kind", kind, (None, "snapshots"))
    name_of, unit_of = _headers(df)
    table = {name_of[column]: _column(df[column]) for column in df.columns}
    source = str(df.attrs.get("source", "table"))
    time = _time_column(table, time)
    if id is not None:
        id = _known(id, table, "id")
    elif "trajectory" in table and time != "trajectory":
        id = "trajectory"
    long = layout == "long" or (layout == "auto" and {"variable", "value"} <= set(table))
    if long:
        table, more = _widen(table, time, id, decimal)
        unit_of |= more
    keep = [_known(v, table, "values") for v in values] if values else [c for c in table if c not in (time, id)]
    if not keep:
        raise DataError(f"{source} has no column of values beside {time!r}.")
    stamps = parse_times(table[time], source, time) if _has_text(table[time], decimal) else None
    numbers = {c: _numbers(table[c], c, decimal, source) for c in keep}
    numbers[time] = stamps.values if stamps else _numbers(table[time], time, decimal, source)
    stated = {} if isinstance(units, str) else dict(units or {})
    for key in stated:
        _known(key, ["time", *table], "units")
    rest = units if isinstance(units, str) else ""
    found = {c: stated.get(c) or unit_of.get(c, "") or rest for c in (time, *keep)}
    found[time] = stated.get("time", found[time])
    if stamps:
        found[time] = _agreed(found[time], stamps, source)
    _require_units(found, time, source)
    if kind == "snapshots":
        return cells(numbers, found, time, keep, {id: table[id]} if id is not None else {}, source)
    ds = trajectories(numbers, found, time, keep, labels(table[id]) if id is not None else None, source)
    if stamps and stamps.reference:
        ds["time"].attrs["reference"] = stamps.reference
    validate(ds)
    return ds


def _column(series: pd.Series) -> Any:
    """Numbers as the array that they are, anything else as a list of cells."""
    return series.to_numpy() if getattr(series.dtype, "kind", "O") in "fiu" else series.tolist()


def _headers(df: pd.DataFrame) -> tuple[dict[Any, str], dict[str, str]]:
    names: dict[Any, str] = {}
    units: dict[str, str] = {}
    for column in df.columns:
        name, unit = split_units(str(column))
        if name in names.values() or not name:
            raise DataError(
                f"The table has {'two columns named ' + repr(name) if name else 'a column without a name'}."
            )
        names[column] = name.replace("/", "_")
        units[names[column]] = unit
    return names, units


def _known(name: str, columns: Any, argument: str) -> str:
    plain = split_units(name)[0]
    for candidate in (name, plain):
        if candidate in columns:
            return candidate
    listed = ", ".join(map(repr, columns))
    raise OptionError(f"{argument} names {name!r}; the columns are {listed}.{did_you_mean(name, columns)}")


def _time_column(table: Mapping[str, Any], time: str | None) -> str:
    if time is not None:
        return _known(time, table, "time")
    matches = [c for c in table if c.lower() in TIME_NAMES]
    if "time" in matches or len(matches) == 1:
        return "time" if "time" in matches else matches[0]
    state = f"the columns {matches} could all be time" if matches else f"no column is a word for time: {list(table)}"
    raise DataError(
        f"Which column is time? {state[0].upper() + state[1:]}; name it with time=… (--time … in the shell)."
    )


def _numbers(cells: Sequence[Any], column: str, decimal: str, source: str) -> np.ndarray:
    """Cells as float64; the first that is no number is named by row and column."""
    if isinstance(cells, np.ndarray):
        return cells.astype(float)
    plain = _plain_numbers(cells) if decimal == "." else None
    if plain is not None:
        return plain
    out = np.empty(len(cells))
    for k, cell in enumerate(cells):
        if isinstance(cell, str):
            text = cell.strip()
            if text.lower() in _MISSING:
                out[k] = np.nan
                continue
            text = text.replace(decimal, ".") if decimal != "." else text
            if not _ENTRY.fullmatch(text) and text.lower() not in ("inf", "-inf", "+inf"):
                raise DataError(
                    f"{source}, column {column!r}, row {k + 2}: {cell!r} is not a number; correct the cell, leave it "
                    f"empty if it is missing, or name the columns to read with values=[…]."
                )
            out[k] = float(text)
        else:
            out[k] = np.nan if cell is None else float(cell)
    return out


def _plain_numbers(cells: Sequence[Any]) -> np.ndarray | None:
    """All cells at once where they are text of plain numbers, as in most columns; else None."""
    try:
        text = "\n".join(cells)
    except TypeError:  # not all of them are text
        return None
    if not text or text.count("\n") != len(cells) - 1 or not _PLAIN.fullmatch(text + "\n"):
        return None
    return np.array(list(map(float, cells)))


def _has_text(cells: Sequence[Any], decimal: str) -> bool:
    """True if no cell is a plain number, so that times may be dates or labels."""
    return not isinstance(cells, np.ndarray) and not any(
        isinstance(cell, int | float)
        or (isinstance(cell, str) and (_ENTRY.fullmatch(cell.strip().replace(decimal, ".")) or not cell.strip()))
        for cell in cells
    )


def _agreed(stated: str, stamps: Stamps, source: str) -> str:
    """Units of times written as text; a header that names other units contradicts them."""
    known = ("", stamps.units, "year") if stamps.reference else ("", stamps.units)
    if canonical_unit(stated) not in known:
        what = f"days since {stamps.reference}" if stamps.reference else stamps.units
        raise UnitsError(f"{source}: the times are written as {what}, but their units are stated as {stated!r}.")
    return stamps.units


def _require_units(found: Mapping[str, str], time: str, source: str) -> None:
    missing = [name for name, unit in found.items() if not unit]
    if missing:
        keys = ["time" if m == time else m for m in missing]
        example = ", ".join(f"{k!r}: '…'" for k in keys)
        raise UnitsError(
            f"{source}: units are missing for {', '.join(map(repr, missing))}. Write them in the header, "
            f"'{missing[0]} (unit)', or pass units={{{example}}} (--units {keys[0]}=… in the shell; 1 for none)."
        )


def _widen(
    table: dict[str, list[Any]], time: str, id: str | None, decimal: str
) -> tuple[dict[str, list[Any]], dict[str, str]]:
    """A long table as a wide one; a column ``units`` gives the units of each variable."""
    for column in ("variable", "value"):
        if column not in table:
            raise DataError(f"A long table needs the column {column!r}; this one has {list(table)}.")
    keys = list(zip(table[id] if id else [""] * len(table[time]), map(str, table[time]), strict=True))
    wide: dict[tuple[Any, str], dict[str, Any]] = {}
    units: dict[str, str] = {}
    for k, (key, heading, value) in enumerate(zip(keys, table["variable"], table["value"], strict=True)):
        name, unit = split_units(str(heading))
        row = wide.setdefault(key, {})
        if name in row:
            raise TimeGridError(
                f"Row {k + 2} gives {name!r} at time {key[1]} a second time"
                + (f" for {key[0]!r}." if id else "; if replicates are mixed, name their column with id=….")
            )
        row[name] = value
        units[name] = str(table["units"][k]) if "units" in table else unit or units.get(name, "")
    out: dict[str, list[Any]] = {time: [key[1] for key in wide]}
    if id:
        out[id] = [key[0] for key in wide]
    for name in units:
        out[name] = [row.get(name, "") for row in wide.values()]
    return out, units
