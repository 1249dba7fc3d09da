"""The one module that writes durable files: complete or absent, never half."""

from __future__ import annotations

import errno
import glob
import os
import shutil
import socket
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from scidyn.data.io.lock import alive, holder, writing
from scidyn.errors import ArtifactError

__all__ = ["recover_directory", "replace_directory", "write_bytes", "write_file"]

_NEW = ".scidyn-new-"
_OLD = ".scidyn-old-"
_PATIENCE = 2.0


def write_bytes(path: Path, content: bytes) -> Path:
    """Write ``content`` to ``path`` so that a kill or a full disk leaves the old file or the new one."""

    def put(temporary: Path) -> None:
        temporary.write_bytes(content)

    return write_file(path, put, size=len(content))


def write_file(path: Path, write: Callable[[Path], None], *, size: int | None = None) -> Path:
    """Let ``write`` fill a temporary file beside ``path``, make it durable, then rename it to ``path``.

    Parameters
    ----------
    path : Path
        File to write or replace.
    write : callable
        Gets the temporary path.
    size : int, optional
        Bytes to come, for the message when the disk is full.

    Raises
    ------
    ArtifactError
        If the folder is missing, another process writes the file, or the disk refuses; the old file
        is untouched.
    """
    path = Path(path)
    temporary = _temporary(path)
    try:
        with writing(path):
            _sweep(path)
            try:
                write(temporary)
                _flush(temporary)
                os.replace(temporary, path)
                _flush(path.parent)
            finally:
                temporary.unlink(missing_ok=True)
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(_refused(path, error, size)) from error
    return path


def replace_directory(path: Path, fill: Callable[[Path], None], *, size: int | None = None) -> Path:
    """Let ``fill`` write files into a temporary folder, make them durable, then put it in place of ``path``.

    A kill between the two renames leaves the old folder under a side name;
    :func:`recover_directory` puts it back.

    Raises
    ------
    ArtifactError
        If another process writes the folder or the disk refuses; the old folder is untouched.
    """
    path = Path(path)
    temporary = _temporary(path)
    retired = _retired(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with writing(path):
            try:
                _recover(path, retired)
                _sweep(path)
                temporary.mkdir()
                fill(temporary)
                for file in temporary.iterdir():
                    _flush(file)
                _flush(temporary)
                if path.exists():
                    os.replace(path, retired)
                os.replace(temporary, path)
                _flush(path.parent)
                shutil.rmtree(retired, ignore_errors=True)
            finally:
                _recover(path, retired)
                shutil.rmtree(temporary, ignore_errors=True)
    except ArtifactError:
        raise
    except OSError as error:
        raise ArtifactError(_refused(path, error, size)) from error
    return path


def recover_directory(path: Path) -> None:
    """Finish or undo a :func:`replace_directory` that was killed between its renames.

    While another process is between them, this waits for it.
    """
    retired = _retired(path)
    deadline = time.monotonic() + _PATIENCE
    while retired.exists():
        writer = holder(path)
        if writer is None or not alive(writer) or writer.get("pid") == os.getpid():
            _recover(path, retired)
            return
        if path.exists() or time.monotonic() > deadline:
            return
        time.sleep(0.01)


def _recover(path: Path, retired: Path) -> None:
    if retired.exists():
        if path.exists():
            shutil.rmtree(retired, ignore_errors=True)
        else:
            os.replace(retired, path)


def _retired(path: Path) -> Path:
    return path.with_name(f"{_OLD}{path.name[:120]}")


def _temporary(path: Path) -> Path:
    return path.with_name(f"{_NEW}{path.name[:120]}-{os.getpid()}-{uuid.uuid4().hex[:8]}")


def _sweep(path: Path) -> None:
    """Remove what killed writers of the same name left behind."""
    for stale in path.parent.glob(f"{_NEW}{glob.escape(path.name[:120])}-*"):
        pid = stale.name.rsplit("-", 2)[1]
        if pid.isdigit() and alive({"host": socket.gethostname(), "pid": int(pid)}) and int(pid) != os.getpid():
            continue
        shutil.rmtree(stale, ignore_errors=True) if stale.is_dir() else stale.unlink(missing_ok=True)


def _refused(path: Path, error: OSError, size: int | None) -> str:
    """The sentence for a write that the system refused; a full disk says how much is free."""
    needed = ""
    if error.errno in (errno.ENOSPC, errno.EFBIG, errno.EDQUOT):
        try:
            free = f"{shutil.disk_usage(path.parent).free} bytes are free"
        except OSError:
            free = "the free space is unknown"
        needed = f" ({f'{size} bytes are needed, ' if size is not None else ''}{free})"
    return f"{path} could not be written: {error}{needed}; nothing was changed."


def _flush(path: Path) -> None:
    """Ask the disk to keep a file or a folder's entries."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
