"""Parquet tables, wide or long; needs pyarrow."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

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
            table = pa.concat_tables([file.read_row_group(k) for k in range(file.metadata.num_row_groups)])
    except (ArtifactError, DataError):
        raise
    except (pa.ArrowException, OSError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    frame = pd.DataFrame({name: table[name].to_pylist() for name in table.column_names}, dtype=object)
    frame.attrs["source"] = path.name
    return from_table(frame, time=time, id=id, values=values, units=units, layout=layout, kind=kind)
