"""Ways to hurt a process or a file, each in a forked child so that a crash is a counted failure."""

from __future__ import annotations

import contextlib
import os
import pickle
import resource
import signal
import time
from pathlib import Path

import h5netcdf  # noqa: F401  # so that children need not import it
import pandas as pd  # noqa: F401
import scipy.io  # noqa: F401
import xarray.backends  # noqa: F401
from faults.tally import NIGHTLY, SURVIVED, TRIED, kind_of_the_test


def count(ci, nightly):
    """How many trials: the large number when SCIDYN_FAULTS=nightly."""
    return nightly if NIGHTLY else ci


@contextlib.contextmanager
def fault():
    """One fault; it is survived if the block ends without an exception."""
    kind = kind_of_the_test()
    TRIED[kind] += 1
    yield
    SURVIVED[kind] += 1


def in_child(work, *, memory=None, file_size=None, seconds=60):
    """Run ``work`` in a fork; its result, its exception as text, or how the process died.

    Returns ``("ok", value)``, ``("refused", "ClassName: message")`` for errors of the package,
    ``("raw", "ClassName: message")`` for any other, ``("died", signal)``.
    """
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        signal.alarm(seconds)
        code = _outcome(work, memory, file_size)
        with os.fdopen(write, "wb") as pipe:
            pickle.dump(code, pipe)
        os._exit(0)
    os.close(write)
    with os.fdopen(read, "rb") as pipe:
        content = pipe.read()
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status) or not content:
        return ("died", os.WTERMSIG(status) if os.WIFSIGNALED(status) else -1)
    return pickle.loads(content)


def _outcome(work, memory, file_size):
    from scidyn.errors import ScidynError

    if memory is not None:
        lines = Path("/proc/self/status").read_text().splitlines()
        now = int(next(line for line in lines if line.startswith("VmSize")).split()[1]) << 10
        resource.setrlimit(resource.RLIMIT_AS, (now + memory, now + memory))
    if file_size is not None:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (file_size, file_size))
    try:
        return ("ok", work())
    except ScidynError as error:
        return ("refused", f"{type(error).__name__}: {error}")
    except BaseException as error:
        return ("raw", f"{type(error).__name__}: {error}")


def killed_after(delay, work):
    """Fork ``work``, send SIGKILL after ``delay`` seconds, wait for the end."""
    child = os.fork()
    if child == 0:
        try:
            work()
        finally:
            os._exit(0)
    time.sleep(delay)
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)


def cuts(content, generator, n):
    """``n`` beginnings of ``content``, the empty one among them."""
    places = [0, *sorted(generator.integers(1, len(content), n - 1).tolist())]
    return [content[:k] for k in places]


def flipped(content, generator):
    """``content`` with one bit changed."""
    out = bytearray(content)
    out[int(generator.integers(len(out)))] ^= 1 << int(generator.integers(8))
    return bytes(out)


def lost_page(content, generator, page=4096):
    """``content`` with one page of zeros."""
    start = int(generator.integers(max(1, len(content) // page))) * page
    return content[:start] + bytes(len(content[start : start + page])) + content[start + page :]


LITTER = (".scidyn-new-", ".scidyn-old-", ".scidyn-lock-")


def litter(folder):
    """Temporary files and locks that are left."""
    return [p.name for p in folder.rglob("*") if p.name.startswith(LITTER)]
