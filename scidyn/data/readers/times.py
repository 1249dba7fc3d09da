"""Times as people write them: numbers, ISO dates, ``day 2``, ``d2``, ``36 h``."""

from __future__ import annotations

import datetime as dt
import re
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from scidyn.errors import TimeGridError

__all__ = ["Stamps", "canonical_unit", "parse_times"]

_UNIT_WORDS = {
    "s": ("s", "sec", "secs", "second", "seconds"),
    "min": ("min", "mins", "minute", "minutes"),
    "h": ("h", "hr", "hrs", "hour", "hours"),
    "day": ("d", "day", "days"),
    "week": ("w", "wk", "week", "weeks"),
    "year": ("y", "yr", "year", "years"),
}
_UNIT = {word: unit for unit, words in _UNIT_WORDS.items() for word in words}
_NUMBER = r"[+-]?(?:\d+\.?\d*|\.\d+)(?:[eE][+-]?\d+)?"
_LABELLED = re.compile(rf"(?P<before>[A-Za-z]*)[\s_\-:]*(?P<number>{_NUMBER})\s*(?P<after>[A-Za-z]*)")


class Stamps(NamedTuple):
    """Times as numbers, the units that their text named, and the instant that is zero (or "")."""

    values: np.ndarray
    units: str
    reference: str


def canonical_unit(word: str) -> str:
    """``"h"`` for ``"hours"``; a word that is no unit of time stays."""
    return _UNIT.get(word.strip().lower(), word)


def parse_times(cells: Sequence[Any], source: str, column: str) -> Stamps | None:
    """Read dates or labelled numbers as times; None if the cells are neither.

    Dates become days since the first of them; ``day 2`` and ``36 h`` keep their number and name the unit.

    Raises
    ------
    TimeGridError
        If units are mixed, or a date has no ISO form; the row is named.
    """
    texts = [cell.strip() if isinstance(cell, str) else cell for cell in cells]
    if not texts:
        return None
    moments = [_moment(text) for text in texts]
    if all(moment is not None for moment in moments):
        first = min(m for m in moments if m is not None)
        days = [(m - first).total_seconds() / 86400.0 for m in moments if m is not None]
        return Stamps(np.array(days), "day", first.isoformat())
    if any(moment is not None for moment in moments):
        row = next(k for k, moment in enumerate(moments) if moment is None)
        raise TimeGridError(f"{source}, column {column!r}, row {row + 2}: {cells[row]!r} is no date as the others are.")
    for k, text in enumerate(texts):
        if isinstance(text, str) and re.fullmatch(r"\d{1,2}[./-]\d{1,2}[./-]\d{2,4}( .*)?", text):
            raise TimeGridError(
                f"{source}, column {column!r}, row {k + 2}: {text!r} can be read as day or month first; "
                "write dates as 2024-01-31, or times as numbers."
            )
    return _labelled(texts, cells, source, column)


def _labelled(texts: Sequence[Any], cells: Sequence[Any], source: str, column: str) -> Stamps | None:
    matches = [_LABELLED.fullmatch(text) if isinstance(text, str) else None for text in texts]
    if not all(matches):
        return None
    found = [m for m in matches if m]
    units = [_UNIT.get((m["before"] or m["after"]).lower(), "") for m in found]
    if not all(units):
        return None
    other = next((k for k, unit in enumerate(units) if unit != units[0]), None)
    if other is not None:
        raise TimeGridError(
            f"{source}, column {column!r}, row {other + 2}: {cells[other]!r} is in {units[other]}, "
            f"{cells[0]!r} is in {units[0]}; write all times in one unit."
        )
    return Stamps(np.array([float(m["number"]) for m in found]), units[0], "")


def _moment(cell: Any) -> dt.datetime | None:
    if isinstance(cell, dt.datetime):
        return cell.replace(tzinfo=None) if cell.tzinfo is None else cell.astimezone(dt.UTC).replace(tzinfo=None)
    if isinstance(cell, dt.date):
        return dt.datetime(cell.year, cell.month, cell.day)
    if not isinstance(cell, str) or not re.match(r"\d{4}-\d{2}-\d{2}", cell):
        return None
    try:
        stamp = dt.datetime.fromisoformat(cell)
    except ValueError:
        return None
    return stamp if stamp.tzinfo is None else stamp.astimezone(dt.UTC).replace(tzinfo=None)
