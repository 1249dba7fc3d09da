"""Solvers of ordinary, stochastic and controlled differential equations and of Markov jump processes."""

from __future__ import annotations

from scidyn.solvers.cde import (
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
