"""scidyn: scientific modeling of dynamical systems and PDEs in PyTorch.

The front door holds the names people type; everything behind it is imported on first use.

Examples
--------
>>> import scidyn
>>> record = scidyn.datasets.load("lynx_hare")
>>> sorted(record.data_vars)
['hare', 'lynx']
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

_NAMES = {
    "open": "scidyn.data",
    "save": "scidyn.data",
    "load": "scidyn.model_files",
    "show_versions": "scidyn.about",
    "cite": "scidyn.about",
}
__all__ = [
    "__version__",
    "bridges",
    "cite",
    "data",
    "datasets",
    "errors",
    "load",
    "metrics",
    "nn",
    "open",
    "save",
    "show_versions",
    "solvers",
    "sysid",
    "systems",
    "training",
    "transport",
    "viz",
]

if TYPE_CHECKING:
    from scidyn import bridges, data, datasets, errors, metrics, nn, solvers, sysid, systems, training, transport, viz
    from scidyn.about import cite, show_versions
    from scidyn.data import open, save
    from scidyn.model_files import load


def __getattr__(name: str) -> Any:
    if name in _NAMES:
        return getattr(importlib.import_module(_NAMES[name]), name)
    if name in __all__:
        return importlib.import_module(f"scidyn.{name}")
    raise AttributeError(f"module 'scidyn' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
