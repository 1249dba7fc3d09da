"""Column headers that carry units: ``glucose (mg/dL)``, ``glucose [mg/dL]``."""

from __future__ import annotations

import re

__all__ = ["TIME_NAMES", "join_units", "split_units"]

TIME_NAMES = ("time", "t", "times", "date", "year", "years", "day", "days", "hour", "hours", "minute", "minutes",
              "second", "seconds", "week", "weeks", "month", "months", "age")  # fmt: skip
"""Headers that are taken for time when no column is named; calendar words also say the unit."""

_SELF_EXPLAINING = {"year", "day", "hour", "minute", "second", "week", "month"}


def split_units(header: str) -> tuple[str, str]:
    """Name and units of a header; a bare ``year`` or ``hours`` is its own unit."""
    text = header.strip()
    match = re.fullmatch(r"(.*?)\s*(?:\((.*)\)|\[(.*)\])", text)
    if match and match.group(1):
        return match.group(1).strip(), (match.group(2) or match.group(3) or "").strip()
    singular = text.lower().removesuffix("s")
    return text, singular if singular in _SELF_EXPLAINING else ""


def join_units(name: str, units: str) -> str:
    """Invert :func:`split_units`."""
    return f"{name} ({units})" if units else name
