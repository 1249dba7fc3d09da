"""Parquet tables, wide or long; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import BUDGET
from scidyn.data.readers.table import from_table
from scidyn.errors import ArtifactError, DataError, MissingDependencyError

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
) -> xr.Dataset:
    """Read a table, one row group after another; nullable integers become numbers with NaN.

    Raises
    ------
    MissingDependencyError
        Without pyarrow.
    ArtifactError
        If the file is truncated or damaged, or declares more than 8 GiB.
    DataError
        If a column is nested.
    """
    try:
        import pyarrow as pa
        import pyarrow.parquet as pq
    except ImportError:
        raise MissingDependencyError(
            "Parquet files need pyarrow: pip install 'scidyn[parquet]', or save the table as CSV."
        ) from None
    import pandas as pd

    try:
        with pq.ParquetFile(path) as file:
            size = sum(file.metadata.row_group(k).total_byte_size for k in range(file.metadata.num_row_groups))
            if max(size, 8 * file.metadata.num_rows * file.metadata.num_columns) > BUDGET:
                raise ArtifactError(f"{path} declares more than {BUDGET / 2**30:g} GiB; refused.")
            nested = next((f for f in file.schema_arrow if pa.types.is_nested(f.type)), None)
            if nested is not None:
                raise DataError(
                    f"{path}: column {nested.name!r} is nested ({nested.type}); write one column per number."
                )
            frame = pd.DataFrame(_columns(file))
    except (ArtifactError, DataError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    frame.attrs["source"] = path.name
    return from_table(frame, time=time, id=id, values=values, units=units, layout=layout, kind=kind)


def _columns(file: Any) -> dict[str, Any]:
    """All columns; numbers go row group by row group into their array, so that one group is held beside it."""
    import pyarrow as pa

    rows = file.metadata.num_rows
    out: dict[str, Any] = {}
    for field in file.schema_arrow:
        numeric = pa.types.is_integer(field.type) or pa.types.is_floating(field.type)
        out[field.name] = np.empty(rows) if numeric else np.empty(rows, dtype=object)
    start = 0
    for k in range(file.metadata.num_row_groups):
        group = file.read_row_group(k)
        for name, column in out.items():
            part = group[name]
            numbers = column.dtype.kind == "f"
            column[start : start + group.num_rows] = (
                part.to_numpy().astype(float) if numbers and not part.null_count else part.to_pylist()
            )
        start += group.num_rows
    return out
