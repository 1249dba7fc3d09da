"""The stochastic methods by name and calculus."""

from __future__ import annotations

from scidyn.solvers.sde.methods import additive, ito, stratonovich
from scidyn.solvers.sde.methods.method import Method

__all__ = ["METHODS", "Method"]

METHODS: dict[str, dict[str, Method]] = {"ito": {}, "stratonovich": {}}
for _module in (ito, stratonovich, additive):
    for _name in _module.__all__:
        _method = getattr(_module, _name)
        for _calculus in _method.calculus:
            METHODS[_calculus][_method.name] = _method
# with additive noise both readings agree, and so does Euler's method
METHODS["stratonovich"]["euler_maruyama"] = ito.EULER
