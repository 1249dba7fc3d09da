"""Parquet tables, wide or long; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn._check.values import integer
from scidyn.data.io.safety import BUDGET, no_room
from scidyn.data.readers.finish import taken_rows
from scidyn.data.readers.headers import TIME_NAMES, split_units
from scidyn.data.readers.table import from_table
from scidyn.errors import ArtifactError, DataError, MissingDependencyError, OptionError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is Parquet, by its first four bytes."""
    return 1.0 if head.startswith(b"PAR1") else 0.0


def read(
    path: Path,
    *,
    time: str | None = None,
    id: str | None = None,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    layout: str = "auto",
    kind: str | None = None,
    rows: Any = None,
    memory_limit: int | None = None,
) -> xr.Dataset:
    """Read a table, one row group after another; nullable integers become numbers with NaN.

    Of a wide table only the columns for ``time``, ``id`` and ``values`` are read, and only the row groups
    that hold ``rows``, so that a file larger than memory can be read, or converted, in pieces.

    Raises
    ------
    MissingDependencyError
        Without pyarrow.
    ArtifactError
        If the file is truncated or damaged, or what is to be read is larger than ``memory_limit`` (8 GiB).
    DataError
        If a column is nested.
    OptionError
        If ``rows`` lie outside the table.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError(
            "Parquet files need pyarrow: pip install 'scidyn[parquet]', or save the table as CSV."
        ) from None
    import pandas as pd

    limit = BUDGET if memory_limit is None else integer("memory_limit", memory_limit, at_least=1)
    try:
        with pq.ParquetFile(path) as file:
            columns = _wanted(file, time, id, values, layout)
            taken = taken_rows(rows, file.metadata.num_rows)
            needed = _needed(file, columns, taken)
            if needed > limit:
                raise no_room(path, needed, limit)
            nested = next((f for f in file.schema_arrow if f.name in columns and pa.types.is_nested(f.type)), None)
            if nested is not None:
                raise DataError(
                    f"{path}: column {nested.name!r} is nested ({nested.type}); write one column per number."
                )
            frame = pd.DataFrame(_columns(file, columns, taken))
    except (ArtifactError, DataError, OptionError, MemoryError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    frame.attrs["source"] = path.name
    return from_table(frame, time=time, id=id, values=values, units=units, layout=layout, kind=kind)


def _wanted(file: Any, time: str | None, id: str | None, values: Sequence[str] | None, layout: str) -> list[str]:
    """Columns to read: all, unless ``values`` names those of a wide table."""
    names: list[str] = file.schema_arrow.names
    plain = {name: split_units(name)[0] for name in names}
    if values is None or layout == "long" or {"variable", "value"} <= set(plain.values()):
        return names
    asked = {*values, *(split_units(v)[0] for v in values), *(v for v in (time, id) if v is not None), "trajectory"}
    words = TIME_NAMES if time is None else ()
    kept = [n for n in names if asked & {n, plain[n]} or plain[n].lower() in words]
    return kept if all(set(names) & {v} or set(plain.values()) & {v, split_units(v)[0]} for v in values) else names


_COPIES = 3  # the table, its columns as float64, and the Dataset
_TEXT = 80  # bytes of a short string in Python


def _needed(file: Any, columns: Sequence[str], rows: slice) -> int:
    """About how many bytes reading these rows takes at its peak."""
    count = rows.stop - rows.start
    cells = sum(8 * _COPIES if _numeric(f) else _TEXT for f in file.schema_arrow if f.name in columns)
    total = file.metadata.num_rows
    group = max((file.metadata.row_group(k).num_rows for k in range(file.metadata.num_row_groups)), default=0)
    stored = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
    share = len(columns) / max(file.metadata.num_columns, 1)
    return int(count * cells + stored * share * min(group, total) / max(total, 1))


def _numeric(field: Any) -> bool:
    import pyarrow as pa

    return bool(pa.types.is_integer(field.type) or pa.types.is_floating(field.type))


def _columns(file: Any, names: Sequence[str], rows: slice) -> dict[str, Any]:
    """Some columns; numbers go row group by row group into their array, so that one group is held beside it."""
    count = rows.stop - rows.start
    fields = {field.name: field for field in file.schema_arrow}
    out = {name: np.empty(count) if _numeric(fields[name]) else np.empty(count, dtype=object) for name in names}
    start = -rows.start  # of a group, counted from the first row that is wanted
    for k in range(file.metadata.num_row_groups):
        stop = start + file.metadata.row_group(k).num_rows
        if start < count and stop > 0:
            group = file.read_row_group(k, columns=list(names))
            low, high = max(start, 0), min(stop, count)
            for name, column in out.items():
                part = group[name].slice(low - start, high - low)
                plain = column.dtype.kind == "f" and not part.null_count
                column[low:high] = part.to_numpy().astype(float) if plain else part.to_pylist()
        start = stop
    return out
