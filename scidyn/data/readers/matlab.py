"""MATLAB files: version 5 through SciPy, version 7.3 as the HDF5 that it is."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import BUDGET, check_hdf5, opened
from scidyn.data.readers.named_arrays import from_named_arrays
from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import h5py
    import xarray as xr

__all__ = ["read", "sniff"]

_V5 = b"MATLAB 5.0 MAT-file"
_V73 = b"MATLAB 7.3 MAT-file"


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is MATLAB's, by its header text."""
    return 1.0 if head.startswith((_V5, _V73)) else 0.0


def read(path: Path, **hints: Any) -> xr.Dataset:
    """Read numeric arrays and the numeric fields of structs; hints as in :func:`from_named_arrays`.

    Raises
    ------
    ArtifactError
        If the file is truncated, damaged or unsafe.
    DataError
        If it holds no numeric array.
    """
    with path.open("rb") as file:
        head = file.read(520)
    arrays = _version_73(path) if head.startswith(_V73) else _version_5(path)
    if not arrays:
        raise DataError(f"{path} holds no numeric array.")
    return from_named_arrays(arrays, path.name, **hints)


def _version_5(path: Path) -> dict[str, np.ndarray]:
    from scipy.io import loadmat, whosmat

    try:
        declared = sum(int(np.prod(shape, dtype=object)) * 8 for _, shape, _ in whosmat(path))
        if declared > BUDGET:
            raise ArtifactError(f"{path} declares more than {BUDGET / 2**30:g} GiB; refused.")
        content = loadmat(path, squeeze_me=False, struct_as_record=True)
    except ArtifactError:
        raise
    except Exception as error:  # SciPy's reader raises a dozen unrelated classes on damaged bytes
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    arrays: dict[str, np.ndarray] = {}
    for name, value in content.items():
        if not name.startswith("__"):
            _flatten(name, value, arrays)
    return arrays


def _flatten(name: str, value: Any, into: dict[str, np.ndarray]) -> None:
    """Numeric arrays as they are, fields of a single struct as ``struct_field``; text and cells are left."""
    if not isinstance(value, np.ndarray):
        return
    if value.dtype.names and value.size == 1:
        for field in value.dtype.names:
            _flatten(f"{name}_{field}", value.reshape(-1)[0][field], into)
    elif value.dtype.kind in "fiubc":
        into[name] = value


def _version_73(path: Path) -> dict[str, np.ndarray]:
    check_hdf5(path)
    arrays: dict[str, np.ndarray] = {}
    try:
        with opened(path) as file:
            _walk(file, "", arrays)
    except (OSError, RuntimeError, KeyError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    return arrays


def _walk(group: h5py.Group, prefix: str, into: dict[str, np.ndarray]) -> None:
    import h5py

    for key, item in group.items():
        if key.startswith("#"):
            continue  # where MATLAB keeps what references point at
        name = f"{prefix}{key}"
        if isinstance(item, h5py.Group):
            if "MATLAB_sparse" not in item.attrs:
                _walk(item, f"{name}_", into)
            continue
        kind = item.attrs.get("MATLAB_class", b"double")
        kind = kind.decode() if isinstance(kind, bytes) else str(kind)
        if kind in ("char", "cell", "struct", "function_handle", "string") or item.attrs.get("MATLAB_empty"):
            continue
        value = np.asarray(item[()])
        if value.dtype.names and set(value.dtype.names) == {"real", "imag"}:
            value = value["real"] + 1j * value["imag"]
        if value.dtype.kind in "fiub":
            value = value.astype(bool) if kind == "logical" else value
        if value.dtype.kind in "fiubc":
            into[name] = value.T  # MATLAB stores columns first
