"""Entry points with the signatures of peer packages, so that code ports by an import."""

from __future__ import annotations

from scidyn.solvers.compat.torchcde import (
    CubicSpline,
    LinearInterpolation,
    cdeint,
    hermite_cubic_coefficients_with_backward_differences,
    linear_interpolation_coeffs,
    natural_cubic_coeffs,
)
from scidyn.solvers.compat.torchsde import sdeint, sdeint_adjoint

__all__ = [
    "CubicSpline",
    "LinearInterpolation",
    "cdeint",
    "hermite_cubic_coefficients_with_backward_differences",
    "linear_interpolation_coeffs",
    "natural_cubic_coeffs",
    "sdeint",
    "sdeint_adjoint",
]
