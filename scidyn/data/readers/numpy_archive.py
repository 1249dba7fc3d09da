"""NumPy archives (.npz) of plain arrays; objects are refused and sizes are checked before loading."""

from __future__ import annotations

import zipfile
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from scidyn.data.io.safety import BUDGET
from scidyn.data.readers.named_arrays import from_named_arrays
from scidyn.errors import ArtifactError, DataError

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["read", "sniff"]


def sniff(path: Path, head: bytes) -> float:
    """Probability that a file is an .npz archive: a zip whose members are arrays."""
    if head.startswith(b"\x93NUMPY"):
        return 1.0
    if not head.startswith(b"PK\x03\x04"):
        return 0.0
    if b".npy" in head[:300]:
        return 1.0
    try:
        with zipfile.ZipFile(path) as archive:
            return 0.9 if any(name.endswith(".npy") for name in archive.namelist()) else 0.0
    except (zipfile.BadZipFile, OSError):
        return 0.3  # a zip cut off before its table of contents


def read(path: Path, **hints: Any) -> xr.Dataset:
    """Read an archive; hints as in :func:`from_named_arrays`.

    Raises
    ------
    ArtifactError
        If it is truncated or damaged, holds Python objects, or declares more than 8 GiB.
    """
    with path.open("rb") as start:
        if start.read(6) == b"\x93NUMPY":
            raise DataError(
                f"{path} is one array without times; load it with numpy.load(path, allow_pickle=False) and pass it to "
                "scidyn.data.from_arrays with its times."
            )
    try:
        with zipfile.ZipFile(path) as archive:
            _check(path, archive)
        with np.load(path, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
    except ArtifactError:
        raise
    except (zipfile.BadZipFile, OSError, ValueError, EOFError, KeyError, RuntimeError, NotImplementedError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    except Exception as error:  # zlib.error has no common base with the above
        if type(error).__module__ != "zlib":
            raise
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
    return from_named_arrays(arrays, path.name, **hints)


def _check(path: Path, archive: zipfile.ZipFile) -> None:
    """Refuse objects and sizes beyond reason by the headers alone."""
    total = 0
    for member in archive.namelist():
        if not member.endswith(".npy"):
            continue
        with archive.open(member) as file:
            version = np.lib.format.read_magic(file)
            reader = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
            shape, _, dtype = reader(file)
        if dtype.hasobject:
            raise ArtifactError(f"{path}: {member} holds Python objects, which can run code when opened; refused.")
        total += int(np.prod([int(n) for n in shape], dtype=object)) * dtype.itemsize
        if total > BUDGET:
            raise ArtifactError(f"{path} declares more than {BUDGET / 2**30:g} GiB (at {member}); refused.")
