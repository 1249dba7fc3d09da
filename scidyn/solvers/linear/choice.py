"""Which linear algebra an implicit method uses, chosen by name."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.linear.linearisation import Banded, Dense, JacobianFunction, Linearisation, MatrixFree

__all__ = ["LinearAlgebra"]

LINEAR_SOLVERS = ("dense", "banded", "krylov")


@dataclass(frozen=True)
class LinearAlgebra:
    """How an implicit method finds its Jacobian and solves with ``I - h γ J``.

    Parameters
    ----------
    linear_solver : str
        ``"dense"``: LU factors of full matrices. ``"banded"``: LU factors of band matrices, found with
        ``lower + upper + 1`` evaluations. ``"krylov"``: GMRES with products only.
    bandwidth : tuple of int, optional
        Diagonals of the Jacobian below and above the main one, for ``"banded"``.
    jacobian : callable, optional
        ``jacobian(t, y)`` of shape (batch, D, D), for ``"dense"``; default: differences of the rate.
    preconditioner : callable, optional
        ``preconditioner(t, y, shift, v)`` approximates ``(I - shift J)^-1 v``, for ``"krylov"``.
    largest_dense : int
        A wider state than this is refused by ``"dense"``.
    """

    linear_solver: str = "dense"
    bandwidth: tuple[int, int] | None = None
    jacobian: JacobianFunction | None = None
    preconditioner: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] | None = None
    largest_dense: int = 512
    linearisation: Linearisation = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        if self.linear_solver not in LINEAR_SOLVERS:
            raise OptionError(f"linear_solver must be one of {LINEAR_SOLVERS}; got {self.linear_solver!r}.")
        if (self.bandwidth is None) == (self.linear_solver == "banded"):
            raise OptionError(
                f"linear_solver={self.linear_solver!r} came with bandwidth={self.bandwidth}: "
                "give bandwidth=(lower, upper) with 'banded', and only there."
            )
        object.__setattr__(self, "linearisation", self._make())

    def _make(self) -> Linearisation:
        if self.bandwidth is not None:
            return Banded(*self.bandwidth)
        if self.linear_solver == "krylov":
            return MatrixFree(preconditioner=self.preconditioner)
        return Dense(self.jacobian)

    def check(self, name: str, y: Tensor) -> None:
        """Refuse states that this linear algebra cannot serve."""
        if y.is_complex():
            raise OptionError(
                f"method {name!r} solves real equations; y0 is {y.dtype}: stack real and imaginary parts "
                "(torch.view_as_real), or use an explicit method."
            )
        if self.linear_solver == "dense" and y.shape[-1] > self.largest_dense:
            raise OptionError(
                f"method {name!r} would factor a full {y.shape[-1]} x {y.shape[-1]} matrix for each sample: pass a "
                "method object with linear_solver='banded' or 'krylov', or raise largest_dense."
            )
