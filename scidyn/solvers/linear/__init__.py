"""Linear algebra of implicit steps: Jacobians and the factored matrices ``I - shift * J``."""

from scidyn.solvers.linear.banded import BandedMatrix
from scidyn.solvers.linear.choice import LinearAlgebra
from scidyn.solvers.linear.dense import DenseMatrix
from scidyn.solvers.linear.gmres import gmres
from scidyn.solvers.linear.linearisation import (
    Banded,
    Dense,
    Factored,
    JacobianFunction,
    Linearisation,
    MatrixFree,
)

__all__ = [
    "Banded",
    "BandedMatrix",
    "Dense",
    "DenseMatrix",
    "Factored",
    "JacobianFunction",
    "LinearAlgebra",
    "Linearisation",
    "MatrixFree",
    "gmres",
]
