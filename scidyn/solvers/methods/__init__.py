"""One file per family of one-step methods, and the registry that ``method=`` looks up."""

from __future__ import annotations

from scidyn.solvers.high_order_tableaus import DOPRI8, VERN7
from scidyn.solvers.methods.automatic import Automatic
from scidyn.solvers.methods.esdirk import ESDIRK
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.exponential import ETDRK4
from scidyn.solvers.methods.imex import AdditiveESDIRK
from scidyn.solvers.methods.rosenbrock import Rodas, Rosenbrock23
from scidyn.solvers.methods.stabilised import RKC2
from scidyn.solvers.methods.stepper import Method, Rate, Step
from scidyn.solvers.methods.symplectic import VELOCITY_VERLET, YOSHIDA4
from scidyn.solvers.stiff_tableaus import KVAERNO3, KVAERNO5, RODAS5P
from scidyn.solvers.tableaus import METHODS as TABLEAUS

__all__ = ["METHODS", "Method", "Rate", "Step"]

_EXPLICIT = (*TABLEAUS.values(), VERN7, DOPRI8)
_IMPLICIT: tuple[Method, ...] = (ESDIRK(KVAERNO3), ESDIRK(KVAERNO5), Rosenbrock23(), Rodas(tableau=RODAS5P))

_SPECIAL: tuple[Method, ...] = (Automatic(), RKC2(), AdditiveESDIRK(), ETDRK4(), VELOCITY_VERLET, YOSHIDA4)

METHODS: dict[str, Method] = {m.name: m for m in (*map(ExplicitRK, _EXPLICIT), *_IMPLICIT, *_SPECIAL)}
