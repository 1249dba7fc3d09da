"""CSV and TSV files as spreadsheets and instruments write them."""

from __future__ import annotations

import csv
import io
import itertools
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from scidyn.data.readers.table import from_table
from scidyn.errors import DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]

_DELIMITERS = ("\t", ";", ",", "|")
_UTF16 = (b"\xff\xfe", b"\xfe\xff")


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is a delimited text table: no NUL bytes, cells in its first line."""
    if path.is_dir():
        return 0.0
    if b"\x00" in head and not head.startswith(_UTF16):
        return 0.0
    text = _decoded(head)
    first = text.splitlines()[0] if text.strip() else ""
    return 0.6 if any(d in first for d in _DELIMITERS) else 0.1


def read(
    path: Path,
    *,
    time: str | None = None,
    id: str | None = None,
    values: Sequence[str] | None = None,
    units: Mapping[str, str] | str | None = None,
    layout: str = "auto",
    kind: str | None = None,
    decimal: str | None = None,
) -> xr.Dataset:
    """Read a delimited text file; hints as in :func:`scidyn.open`."""
    import pandas as pd

    text = _decoded(path.read_bytes()).replace("\r\n", "\n").replace("\r", "\n")
    if not text.strip():
        raise DataError(f"{path} is empty.")
    delimiter = _delimiter(text)
    try:
        rows = [row for row in csv.reader(io.StringIO(text), delimiter=delimiter) if "".join(row).strip()]
    except csv.Error as error:
        raise DataError(f"{path} is no table: {error}; is a quotation mark left open?") from error
    header = [cell.strip() for cell in rows[0]]
    if len(rows) < 2:
        raise DataError(f"{path} has a header and no rows.")
    if set(map(len, rows)) != {len(header)}:
        ragged = next(k for k, row in enumerate(rows) if len(row) != len(header))
        raise DataError(
            f"{path}, row {ragged + 1}: {len(rows[ragged])} cells where the header has {len(header)}; "
            "is the decimal sign also the separator?"
        )
    mark = decimal or _decimal(rows[1:], delimiter)
    frame = pd.DataFrame(rows[1:], columns=header)
    frame.attrs["source"] = str(path.name)
    return from_table(frame, time=time, id=id, values=values, units=units, layout=layout, kind=kind, decimal=mark)


def _decoded(raw: bytes) -> str:
    """Text by its byte-order mark, else UTF-8, else Latin-1 (which every byte string is)."""
    if raw.startswith(_UTF16):
        return raw.decode("utf-16", errors="replace")
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError:
        return raw.decode("latin-1")


def _delimiter(text: str) -> str:
    """The sign that splits every line into the same number (> 1) of cells, tabs and semicolons first."""
    lines = list(itertools.islice((line for line in io.StringIO(text) if line.strip()), 50))
    for sign in _DELIMITERS:
        counts = {len(next(csv.reader([line], delimiter=sign))) for line in lines}
        if len(counts) == 1 and counts.pop() > 1:
            return sign
    return max(_DELIMITERS, key=lines[0].count)


def _decimal(rows: Sequence[Sequence[str]], delimiter: str) -> str:
    """Decimal comma if cells look like ``1,25`` and none looks like ``1.25``."""
    if delimiter == ",":
        commas = (cell for row in rows for cell in row if "," in cell)
        return "," if any(re.fullmatch(r"\s*-?\d+,\d+([eE][+-]?\d+)?\s*", cell) for cell in commas) else "."
    cells = [cell.strip() for row in rows[:200] for cell in row]
    comma = any(re.fullmatch(r"-?\d+,\d+([eE][+-]?\d+)?", cell) for cell in cells)
    point = any(re.fullmatch(r"-?\d+\.\d+([eE][+-]?\d+)?", cell) for cell in cells)
    return "," if comma and not point else "."
