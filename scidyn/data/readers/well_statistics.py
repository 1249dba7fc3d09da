"""The Well's ``stats.yaml``: means and standard deviations of its training data as a Scaling."""

from __future__ import annotations

import json
import re
from itertools import product
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.scaling import Scaling
from scidyn.data.schema import SPACE, state_variables, units_of
from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["well_scaling"]

_LARGEST = 1 << 20
_KEY = re.compile(r"(?P<key>[A-Za-z_]\w*)\s*:\s*(?P<value>.*)")


def well_scaling(path: str | Path, ds: xr.Dataset) -> Scaling:
    r"""The scaling of an archive of The Well from the statistics that come with it.

    Parameters
    ----------
    path : str or Path
        Its ``stats.yaml``; only mappings, lists and numbers are read.
    ds : xarray.Dataset
        Data of the archive, as :func:`scidyn.open` gives them: names and times are taken from it.

    Returns
    -------
    Scaling
        μ and σ of the statistics, t₀ the first time, τ the median step.

    Raises
    ------
    scidyn.errors.ArtifactError
        If the file is no such table.
    scidyn.errors.DataError
        If a variable of ``ds`` is not in it.

    Examples
    --------
    >>> import numpy as np, scidyn
    >>> from pathlib import Path
    >>> from scidyn.data import well_scaling
    >>> text = "mean:\n  rho: 0.5\nstd:\n  rho: 2.0\n"
    >>> _ = scidyn.data.io.atomic.write_bytes(Path("stats.yaml"), text.encode())
    >>> ds = scidyn.data.from_arrays(np.ones(3), [0, 1, 2], names=["rho"], units=["1"], time_units="1")
    >>> well_scaling("stats.yaml", ds).scale
    (2.0,)
    """
    path = Path(path)
    try:
        content = path.read_bytes()
        if len(content) > _LARGEST:
            raise ArtifactError(f"{path} has {len(content)} bytes, too many for a table of statistics; refused.")
        table = _mapping(content.decode("utf-8"), path)
    except (OSError, UnicodeDecodeError) as error:
        if isinstance(error, ArtifactError):
            raise
        raise ArtifactError(f"{path} cannot be read: {error}.") from error
    directions = [d for d in SPACE if d in ds.dims]
    names, units = state_variables(ds), units_of(ds)
    found = {kind: _components(table.get(kind, {}), directions, path) for kind in ("mean", "std")}
    for name in names:
        if name not in found["mean"] or not found["std"].get(name, 0) > 0:
            raise DataError(f"{path} gives no mean and positive std of {name!r}; it has {sorted(found['mean'])}.")
    time = ds["time"].values.astype(float)
    steps = np.diff(time, axis=-1)
    return Scaling(
        tuple(names),
        tuple(units[n] for n in names),
        units["time"],
        tuple(found["mean"][n] for n in names),
        tuple(found["std"][n] for n in names),
        float(np.nanmin(time)),
        float(np.nanmedian(steps)),
        (False,) * len(names),
    )


def _components(fields: Any, directions: list[str], path: Path) -> dict[str, float]:
    """Scalars by their name, components of vectors and tensors as ``velocity_x``, ``stress_xy``."""
    if not isinstance(fields, dict):
        raise ArtifactError(f"{path} holds {fields!r} where fields are expected.")
    out: dict[str, float] = {}
    for name, value in fields.items():
        try:
            array = np.asarray(value, dtype=float)
        except (ValueError, TypeError) as error:
            raise ArtifactError(f"{path}: {name!r} is no number, vector or tensor: {error}.") from error
        if array.ndim == 0:
            out[name] = float(array)
            continue
        if array.shape != (len(directions),) * array.ndim:
            raise ArtifactError(f"{path}: {name!r} has shape {array.shape} in {len(directions)} dimensions.")
        for place in product(range(len(directions)), repeat=array.ndim):
            out[f"{name}_{''.join(directions[p] for p in place)}"] = float(array[place])
    return out


def _mapping(text: str, path: Path) -> dict[str, Any]:
    """The part of YAML that such files use: nested mappings by indentation, block and flow lists, numbers."""
    lines = [(k + 1, line.split(" #")[0].rstrip()) for k, line in enumerate(text.splitlines())]
    rows = [(k, len(line) - len(line.lstrip()), line.strip()) for k, line in lines if line.strip()[:1] not in ("", "#")]
    if not rows:
        raise ArtifactError(f"{path} is empty.")
    value, rest = _block(rows, rows[0][1], path, 0)
    if rest or not isinstance(value, dict):
        raise ArtifactError(f"{path}, line {rest[0][0] if rest else 1}: a table of statistics cannot be read here.")
    return value


def _block(rows: list[Any], indent: int, path: Path, depth: int) -> tuple[Any, list[Any]]:
    if depth > 8:
        raise ArtifactError(f"{path} is nested more than eight deep; refused.")
    items: list[Any] = []
    entries: dict[str, Any] = {}
    listed = rows[0][2].startswith("-")  # a list may stand at the indentation of its key
    while rows and rows[0][1] == indent and rows[0][2].startswith("-") == listed:
        number, _, text = rows[0]
        if text.startswith("-"):
            inner = text[1:].lstrip()
            shift = indent + len(text) - len(inner)
            if inner.startswith("- "):  # a list in a list begins on the line of its first entry
                value, rows = _block([(number, shift, inner), *rows[1:]], shift, path, depth + 1)
            else:
                value, rows = _scalar(inner, path, number), rows[1:]
            items.append(value)
            continue
        match = _KEY.fullmatch(text)
        if not match or match["key"] in entries:
            raise ArtifactError(f"{path}, line {number}: {text[:40]!r} is not expected in a table of statistics.")
        rows = rows[1:]
        if match["value"]:
            entries[match["key"]] = _scalar(match["value"], path, number)
        elif rows and (rows[0][1] > indent or (rows[0][1] == indent and rows[0][2].startswith("-"))):
            entries[match["key"]], rows = _block(rows, rows[0][1], path, depth + 1)
        else:
            entries[match["key"]] = {}
    return (items or entries), rows


def _scalar(text: str, path: Path, line: int) -> Any:
    try:
        value = json.loads(text) if text.startswith("[") else float(text)
    except (ValueError, RecursionError) as error:
        raise ArtifactError(f"{path}, line {line}: {text[:40]!r} is not a number or a list of numbers.") from error
    return value
