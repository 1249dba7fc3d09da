"""Compile generated programs with the system's C++ compiler, once per program and machine."""

from __future__ import annotations

import ctypes
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import torch

from scidyn.solvers.generated.tracing import Unsupported

__all__ = ["Program"]

# without contraction a sample is rounded in the same way in every lane and in every batch
FLAGS = ("-std=c++17", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=off", "-w")
SECONDS = 120

_lock = threading.Lock()


class Program:
    """A C++ program and, once it is asked for, the compiled library.

    Parameters
    ----------
    source : str
        The program.
    hurried : bool
        Ask the compiler for less optimisation, for a long program.
    """

    def __init__(self, source: str, *, hurried: bool) -> None:
        self.source, self.hurried = source, hurried
        self._path = _path(source)
        self._library: ctypes.CDLL | None = None
        self._broken = ""

    @property
    def compiled(self) -> bool:
        """True if loading needs no compiler."""
        return self._library is not None or self._path.exists()

    def load(self) -> ctypes.CDLL:
        """Give the library, from memory, from disk or from the compiler.

        Raises
        ------
        Unsupported
            If there is no compiler, or it fails.
        """
        with _lock:
            if self._broken:
                raise Unsupported(self._broken)
            if self._library is None:
                try:
                    if not self._path.exists():
                        _compile(self.source, self._path, "-O1" if self.hurried else "-O3")
                    self._library = ctypes.CDLL(str(self._path))
                except (OSError, subprocess.SubprocessError) as reason:
                    self._broken = f"{type(reason).__name__}: {reason}"
                    raise Unsupported(self._broken) from None
                self._library.solve_each.restype = self._library.solve_together.restype = ctypes.c_void_p
            return self._library


def _path(source: str) -> Path:
    """Where the compiled program is kept: a folder of this user, a name for the program and the machine."""
    # the instructions of the processor are part of a compiled program
    machine = (platform.node(), platform.machine(), torch.backends.cpu.get_cpu_capability(), _compiler(), *FLAGS)
    digest = hashlib.sha256("\n".join((*machine, source)).encode()).hexdigest()
    return _folder() / f"{digest[:40]}.so"


def _folder() -> Path:
    base = os.environ.get("XDG_CACHE_HOME") or str(Path.home() / ".cache")
    return Path(base) / "scidyn" / "solvers"


def _compiler() -> str:
    return os.environ.get("CXX") or shutil.which("g++") or shutil.which("clang++") or ""


def _compile(source: str, path: Path, level: str) -> None:
    compiler = _compiler()
    if not compiler or platform.system() == "Windows":
        raise OSError("no C++ compiler was found")
    path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=path.parent) as folder:
        made = Path(folder) / path.name
        command = [compiler, *FLAGS, level, "-shared", "-fPIC", "-x", "c++", "-", "-o", str(made)]
        done = subprocess.run(command, input=source, capture_output=True, text=True, check=False, timeout=SECONDS)
        if done.returncode:
            lines = done.stderr.strip().splitlines() or ["no message"]
            raise OSError(f"the C++ compiler failed: {lines[0]}")
        made.replace(path)
