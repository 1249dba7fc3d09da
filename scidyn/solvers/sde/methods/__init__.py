"""Methods for stochastic differential equations, by the name that ``method=`` takes."""

from __future__ import annotations

from scidyn.solvers.sde.methods.elementary import EulerHeun, EulerMaruyama, Heun, Midpoint
from scidyn.solvers.sde.methods.milstein import Milstein, MilsteinDifference
from scidyn.solvers.sde.methods.reversible_heun import ReversibleHeun
from scidyn.solvers.sde.methods.shifted import SEA, SRA1, GeneralShARK, ShARK, SPaRK
from scidyn.solvers.sde.methods.sri import SRIW1, Platen
from scidyn.solvers.sde.methods.stepper import Advance, Description, SDEMethod

__all__ = ["SDE_METHODS", "Advance", "Description", "SDEMethod"]

SDE_METHODS: dict[str, SDEMethod] = {
    method.about.name: method
    for method in (
        EulerMaruyama(),
        Milstein(),
        MilsteinDifference(),
        Heun(),
        EulerHeun(),
        Midpoint(),
        SEA(),
        SRA1(),
        ShARK(),
        GeneralShARK(),
        SPaRK(),
        SRIW1(),
        Platen(),
        ReversibleHeun(),
    )
}
