"""Refuse dangerous HDF5 files before a byte of data is read: links out, bombs, endless trees."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from scidyn.errors import ArtifactError

if TYPE_CHECKING:
    import h5py

__all__ = ["BUDGET", "MAGIC", "check_hdf5", "no_room", "opened"]

MAGIC = b"\x89HDF\r\n\x1a\n"
BUDGET = 8 << 30
"""Bytes that a file may declare when it is to be read whole."""

_MOST_OBJECTS = 10_000
_DEEPEST = 32


def opened(path: Path) -> h5py.File:
    """Open an HDF5 file for reading, with one sentence if it is missing, truncated or locked."""
    import h5py

    try:
        return h5py.File(path, "r")
    except FileNotFoundError:
        raise ArtifactError(f"{path} does not exist.") from None
    except BlockingIOError as error:
        raise ArtifactError(f"{path} is being written by another process: {error}; read it when that ends.") from error
    except (OSError, RuntimeError, ValueError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error


def no_room(path: Path, needed: float, allowed: float | None = None) -> ArtifactError:
    """The refusal of a file that would be read whole and does not fit."""
    limit = f", {allowed / 2**30:.3g} GiB are allowed" if allowed is not None else ""
    return ArtifactError(
        f"{path} does not fit into memory: about {needed / 2**30:.3g} GiB would be read{limit}; name what is needed "
        "with values=[…] or rows=(start, stop), draw windows from an HDF5 file with scidyn.data.loader(path, index, "
        "memory='disk'), or pass memory_limit=… in bytes."
    )


def check_hdf5(path: Path, *, budget: int | None = BUDGET) -> None:
    """Walk the tree of an HDF5 file and refuse what a data file has no need of.

    Parameters
    ----------
    path : Path
        The file.
    budget : int or None
        Most bytes that its arrays may declare together; None for files that are read in windows.

    Raises
    ------
    ArtifactError
        External or soft links, data kept in other files, cycles, more than 10 000 objects, nesting
        deeper than 32, or more declared bytes than ``budget``; the object is named.
    """
    import h5py

    total = 0
    count = 0
    seen: set[int] = set()

    def visit(group: h5py.Group, depth: int) -> None:
        nonlocal total, count
        if depth > _DEEPEST:
            raise ArtifactError(f"{path}: groups are nested deeper than {_DEEPEST} at {group.name}; refused.")
        address = h5py.h5o.get_info(group.id).addr
        if address in seen:
            raise ArtifactError(f"{path}: {group.name} is reached a second time, the groups form a cycle; refused.")
        seen.add(address)
        for key in group:
            count += 1
            if count > _MOST_OBJECTS:
                raise ArtifactError(f"{path} holds more than {_MOST_OBJECTS} objects; refused.")
            where = f"{group.name.rstrip('/')}/{key}"
            link = group.get(key, getlink=True)
            if isinstance(link, h5py.ExternalLink):
                raise ArtifactError(f"{path}: {where} links to another file; refused.")
            if isinstance(link, h5py.SoftLink):
                raise ArtifactError(f"{path}: {where} is a soft link; refused.")
            item = group[key]
            if isinstance(item, h5py.Group):
                visit(item, depth + 1)
            elif isinstance(item, h5py.Dataset):
                if item.external or item.is_virtual:
                    raise ArtifactError(f"{path}: {where} keeps its data in another file; refused.")
                total += item.size * item.dtype.itemsize if item.shape else 0
                if budget is not None and total > budget:
                    raise ArtifactError(
                        f"{path} declares more than {budget / 2**30:g} GiB (at {where}) to be read whole; refused."
                    )

    try:
        with opened(path) as file:
            visit(file, 0)
    except ArtifactError:
        raise
    except (OSError, KeyError, RuntimeError, ValueError, TypeError) as error:
        raise ArtifactError(f"{path} is truncated or damaged: {error}; restore it from a copy.") from error
