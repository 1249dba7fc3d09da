"""One writer per path: a lock file that names its holder and is taken over when the holder is dead."""

from __future__ import annotations

import json
import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from scidyn.errors import ArtifactError

__all__ = ["alive", "holder", "writing"]

_LOCK = ".scidyn-lock-"


@contextmanager
def writing(path: Path) -> Iterator[None]:
    """Hold the lock of ``path`` while writing it.

    Raises
    ------
    ArtifactError
        If a living process holds it; host and process id are named.
    """
    lock = lock_file(path)
    me = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
    for _ in range(3):  # a dead holder's lock is removed, then the creation is tried again
        try:
            handle = os.open(lock, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o644)
        except FileExistsError:
            other = holder(path)
            if other is not None and alive(other):
                raise ArtifactError(
                    f"{path} is being written by process {other.get('pid')} on {other.get('host')}; nothing was "
                    f"changed. If that process is gone, delete {lock}."
                ) from None
            lock.unlink(missing_ok=True)
            continue
        try:
            os.write(handle, me.encode())
        finally:
            os.close(handle)
        try:
            yield
        finally:
            lock.unlink(missing_ok=True)
        return
    raise ArtifactError(f"{path} is being written by others at the same moment; nothing was changed, try again.")


def lock_file(path: Path) -> Path:
    """Where the lock of ``path`` lies."""
    return path.with_name(f"{_LOCK}{path.name[:120]}")


def holder(path: Path) -> dict[str, object] | None:
    """Who holds the lock of ``path``; None if nobody does, or it was left half written."""
    try:
        found = json.loads(lock_file(path).read_bytes())
    except (OSError, ValueError):
        return None
    return found if isinstance(found, dict) else None


def alive(who: dict[str, object]) -> bool:
    """False if the process is known to be gone; a process on another host counts as alive."""
    pid = who.get("pid")
    if who.get("host") != socket.gethostname() or not isinstance(pid, int):
        return True
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    started = _started(pid)
    return started is None or started == who.get("started")


def _started(pid: int) -> str | None:
    """Start time of a process, so that a reused process id is not taken for the old one; None if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
