"""Controlled differential equations: control paths, log-ODE, solver."""

from __future__ import annotations

from scidyn.solvers.cde.control_path import ControlPath, with_time
from scidyn.solvers.cde.cubic_paths import HermiteCubicPath, NaturalCubicPath
from scidyn.solvers.cde.linear_paths import LinearPath, RectilinearPath
from scidyn.solvers.cde.log_ode import log_ode
from scidyn.solvers.cde.solve import solve_cde

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
