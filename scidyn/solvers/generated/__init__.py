"""Solves as one function of generated C++: fields of small states on a CPU."""

from scidyn.solvers.generated.solve import generated_solver

__all__ = ["generated_solver"]
