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
from scidyn.solvers.cde.solve import log_ode, solve_cde

__all__ = [
    "ControlPath",
    "HermiteCubicPath",
    "LinearPath",
    "NaturalCubicPath",
    "RectilinearPath",
    "log_ode",
    "solve_cde",
    "with_time",
]
