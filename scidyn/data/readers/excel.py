"""Excel workbooks: one sheet, or equal sheets as replicates; needs openpyxl."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from scidyn._check.values import choice
from scidyn.data.readers.table import from_table
from scidyn.errors import ArtifactError, DataError, MissingDependencyError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]

_MOST_CELLS = 10_000_000
_MOST_BYTES = 256 << 20


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is a workbook: a zip with a workbook part."""
    if not head.startswith(b"PK\x03\x04"):
        return 0.0
    try:
        with zipfile.ZipFile(path) as archive:
            return 1.0 if "xl/workbook.xml" in archive.namelist() else 0.0
    except (zipfile.BadZipFile, OSError):
        return 0.5 if b"[Content_Types].xml" in head[:200] or b"xl/" in head else 0.0


def read(
    path: Path,
    *,
    sheet: str | None = None,
    time: str | None = None,
    id: str | None = None,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    layout: str = "auto",
    kind: str | None = None,
) -> xr.Dataset:
    """Read a sheet; several sheets with one header are replicates named by their sheet.

    Raises
    ------
    MissingDependencyError
        Without openpyxl.
    ArtifactError
        If the file is truncated, damaged, or swells to more than 256 MiB.
    DataError
        Merged cells, formulas without a stored value, sheets that differ.
    """
    import pandas as pd

    sheets = _sheets(path, sheet)
    headers = {tuple(rows[0]) for rows in sheets.values()}
    if len(headers) > 1:
        raise DataError(f"{path} has sheets with different headers, {list(sheets)}; choose one with sheet='…'.")
    header = list(headers.pop())
    frame = pd.DataFrame([row for rows in sheets.values() for row in rows[1:]], columns=header, dtype=object)
    if len(sheets) > 1 and id is None:
        frame.insert(0, "trajectory", [name for name, rows in sheets.items() for _ in rows[1:]])
        id = "trajectory"
    frame.attrs["source"] = path.name
    return from_table(frame, time=time, id=id, values=values, units=units, layout=layout, kind=kind)


def _sheets(path: Path, sheet: str | None) -> dict[str, list[list[Any]]]:
    try:
        with zipfile.ZipFile(path) as archive:
            size = sum(member.file_size for member in archive.infolist())
    except (zipfile.BadZipFile, OSError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    if size > _MOST_BYTES:
        raise ArtifactError(f"{path} swells to {size >> 20} MiB when unpacked; refused.")
    try:
        import openpyxl
    except ImportError:
        raise MissingDependencyError(
            "Excel files need openpyxl: pip install 'scidyn[excel]', or save the sheet as CSV."
        ) from None
    try:
        content = path.read_bytes()  # a path would be refused for its suffix
        shown = openpyxl.load_workbook(io.BytesIO(content), data_only=True)
        written = openpyxl.load_workbook(io.BytesIO(content), data_only=False)
    except Exception as error:  # openpyxl raises many unrelated classes on damaged parts
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    if sheet is not None:
        choice("sheet", sheet, shown.sheetnames)
    found = {}
    for name in [sheet] if sheet is not None else shown.sheetnames:
        rows = _rows(shown[name], written[name], f"{path}, sheet {name!r}")
        if rows:
            found[name] = rows
    if not found:
        raise DataError(f"{path} holds no rows.")
    return found


def _rows(sheet: Any, formulas: Any, where: str) -> list[list[Any]]:
    if sheet.max_row * sheet.max_column > _MOST_CELLS:
        raise DataError(f"{where} has more than {_MOST_CELLS} cells; save it as CSV or Parquet.")
    if sheet.merged_cells.ranges:
        raise DataError(f"{where} has merged cells at {next(iter(sheet.merged_cells.ranges))}; unmerge them.")
    rows = [list(row) for row in sheet.iter_rows(values_only=True)]
    while rows and all(v in (None, "") for v in rows[-1]):
        rows.pop()
    if not rows:
        return []
    width = max((k + 1 for row in rows for k, v in enumerate(row) if v not in (None, "")), default=0)
    for r, row in enumerate(rows):
        for c in range(width):
            cell = formulas.cell(r + 1, c + 1)
            if row[c] is None and isinstance(cell.value, str) and cell.value.startswith("="):
                raise DataError(
                    f"{where}, cell {cell.coordinate}: the formula {cell.value} has no stored value; "
                    "open the file in a spreadsheet program and save it once."
                )
    header = ["" if v is None else str(v) for v in rows[0][:width]]
    return [header, *(row[:width] for row in rows[1:] if any(v not in (None, "") for v in row))]
