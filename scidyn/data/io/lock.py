"""One writer per path: a locked file beside it that names its holder."""

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
    """Hold the lock of ``path`` while writing it; the system frees it when the process ends.

    Raises
    ------
    ArtifactError
        If a living process holds it; host and process id are named.
    """
    lock = lock_file(path)
    handle = _acquire(path, lock)
    try:
        yield
    finally:
        lock.unlink(missing_ok=True)
        os.close(handle)


def lock_file(path: Path) -> Path:
    """Where the lock of ``path`` lies."""
    return path.with_name(f"{_LOCK}{path.name[:120]}")


def holder(path: Path) -> dict[str, object] | None:
    """Who holds the lock of ``path``; None if nobody is named."""
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
    return started is None or started == who.get("started", started)


def _acquire(path: Path, lock: Path) -> int:
    while True:
        handle = os.open(lock, os.O_CREAT | os.O_RDWR, 0o644)
        try:
            taken = _take(handle)
            other = holder(path)
            if taken is False or (taken is None and other is not None and alive(other)):
                who = f"process {other.get('pid')} on {other.get('host')}" if other else "another process"
                raise ArtifactError(
                    f"{path} is being written by {who}; nothing was changed: try again when it has ended."
                )
            if not _is_there(lock, handle):  # the last holder removed it between our open and our lock
                os.close(handle)
                continue
            me = json.dumps({"host": socket.gethostname(), "pid": os.getpid(), "started": _started(os.getpid())})
            os.ftruncate(handle, 0)
            os.write(handle, me.encode())
        except BaseException:
            os.close(handle)
            raise
        return handle


def _take(handle: int) -> bool | None:
    """True if the system's own lock was taken, False if another holds it, None where there are no locks."""
    try:
        import fcntl
    except ImportError:
        return None
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    except OSError:
        return None
    return True


def _is_there(lock: Path, handle: int) -> bool:
    try:
        return os.path.samestat(os.stat(lock), os.fstat(handle))
    except FileNotFoundError:
        return False


def _started(pid: int) -> str | None:
    """Start time of a process, so that a reused process id is not taken for the old one; None if unknown."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[19]
    except (OSError, IndexError):
        return None
