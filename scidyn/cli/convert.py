"""``scidyn convert``: any file that scidyn reads to NetCDF or a table."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

__all__ = ["run_convert"]


def run_convert(
    source: Path,
    target: Path,
    *,
    time: str | None,
    trajectory: str | None,
    units: Sequence[str],
    codec: str,
    window: int | None,
    overwrite: bool,
) -> None:
    """Open, check and save; say what was written."""
    from scidyn import data
    from scidyn.cli.fit import parse_units

    stated: Any = dict(parse_units([u for u in units if "=" in u]))
    plain = [u for u in units if "=" not in u]
    hints: dict[str, Any] = {"time": time, "id": trajectory, "units": plain[0] if plain and not stated else stated}
    record = data.open(source, **{key: value for key, value in hints.items() if value})
    path = data.save(record, target, codec=codec, window=window, overwrite=overwrite)
    print(f"{path}: {path.stat().st_size} bytes")
    print(record.scidyn)
