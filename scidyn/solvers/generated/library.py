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

__all__ = ["cached", "load"]

FLAGS = ("-std=c++17", "-march=native", "-fno-math-errno", "-fno-trapping-math", "-ffp-contract=fast", "-w")
SECONDS = 120

_loaded: dict[str, ctypes.CDLL] = {}
_broken: dict[str, str] = {}
_lock = threading.Lock()


def load(source: str, *, hurried: bool) -> ctypes.CDLL:
    """Give the compiled program, from memory, from disk or from the compiler.

    ``hurried`` asks for less optimisation, for long programs.

    Raises
    ------
    Unsupported
        If there is no compiler, or it fails.
    """
    path = _path(source)
    with _lock:
        if path.name in _broken:
            raise Unsupported(_broken[path.name])
        found = _loaded.get(path.name)
        if found is None:
            try:
                if not path.exists():
                    _compile(source, path, "-O1" if hurried else "-O3")
                found = _loaded[path.name] = ctypes.CDLL(str(path))
            except (OSError, subprocess.SubprocessError) as reason:
                _broken[path.name] = f"{type(reason).__name__}: {reason}"
                raise Unsupported(_broken[path.name]) from None
            found.solve_each.restype = found.solve_together.restype = ctypes.c_void_p
    return found


def cached(source: str) -> bool:
    """True if the program is compiled already."""
    path = _path(source)
    return path.name in _loaded or path.exists()


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
