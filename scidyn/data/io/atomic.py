"""The one module that writes durable files: complete or absent, never half."""

from __future__ import annotations

import os
import shutil
import uuid
from collections.abc import Callable
from pathlib import Path

from scidyn.errors import ArtifactError

__all__ = ["recover_directory", "replace_directory", "write_bytes", "write_file"]

_NEW = ".scidyn-new-"
_OLD = ".scidyn-old-"


def write_bytes(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` so that a kill or a full disk leaves the old file or the new one."""

    def put(temporary: Path) -> None:
        temporary.write_bytes(content)

    return write_file(path, put)


def write_file(path: Path, write: Callable[[Path], None]) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, make it durable, then rename it to ``path``.

    Raises
    ------
    ArtifactError
        If the folder is missing or the disk refuses; the old file is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f"{_NEW}{path.name}-{uuid.uuid4().hex[:8]}")
    try:
        _sweep(path)
        write(temporary)
        _flush(temporary)
        os.replace(temporary, path)
        _flush(path.parent)
    except OSError as error:
        raise ArtifactError(f"{path} could not be written: {error}; nothing was changed.") from error
    finally:
        temporary.unlink(missing_ok=True)
    return path


def replace_directory(path: Path, fill: Callable[[Path], None]) -> Path:
    """Let ``fill`` write files into a temporary folder, make them durable, then put it in place of ``path``.

    A kill between the two renames leaves the old folder under a side name;
    :func:`recover_directory` puts it back.

    Raises
    ------
    ArtifactError
        If the disk refuses; the old folder is untouched.
    """
    path = Path(path)
    temporary = path.with_name(f"{_NEW}{path.name}-{uuid.uuid4().hex[:8]}")
    retired = path.with_name(f"{_OLD}{path.name}")
    try:
        recover_directory(path)
        _sweep(path)
        temporary.mkdir(parents=True)
        fill(temporary)
        for file in temporary.iterdir():
            _flush(file)
        _flush(temporary)
        if path.exists():
            os.replace(path, retired)
        os.replace(temporary, path)
        _flush(path.parent)
        shutil.rmtree(retired, ignore_errors=True)
    except OSError as error:
        recover_directory(path)
        raise ArtifactError(f"{path} could not be written: {error}; nothing was changed.") from error
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
    return path


def recover_directory(path: Path) -> None:
    """Finish or undo a :func:`replace_directory` that was killed between its renames."""
    retired = path.with_name(f"{_OLD}{path.name}")
    if retired.exists():
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(retired, path)


def _sweep(path: Path) -> None:
    """Remove what killed writers of the same name left behind."""
    for stale in path.parent.glob(f"{_NEW}{path.name}-*"):
        shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)


def _flush(path: Path) -> None:
    """Ask the disk to keep a file or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
