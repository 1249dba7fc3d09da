"""Controlled differential equations: control paths, log-ODE, solver."""

from __future__ import annotations

from scidyn.solvers.cde.paths import (
    ControlPath,
    HermiteCubicPath,
    LinearPath,
    NaturalCubicPath,
    RectilinearPath,
    with_time,
)

__all__ = [
    "ControlPath",
    "HermiteCubicPath",
    "LinearPath",
    "NaturalCubicPath",
    "RectilinearPath",
    "with_time",
]
