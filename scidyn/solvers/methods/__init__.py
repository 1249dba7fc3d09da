"""One file per family of one-step methods, and the registry that ``method=`` looks up."""

from __future__ import annotations

from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Method, Rate, Step
from scidyn.solvers.tableaus import METHODS as TABLEAUS

__all__ = ["METHODS", "Method", "Rate", "Step"]

METHODS: dict[str, Method] = {name: ExplicitRK(tableau) for name, tableau in TABLEAUS.items()}
