r"""The discrete adjoint of all steps at once: the steps are evaluated and pulled back as one batch.

The Jacobians :math:`M_n = \partial y_{n+1} / \partial y_n` of all steps come from D products with one graph;
the recursion :math:`\lambda_n = M_n^\top \lambda_{n+1} + q_n` is then a chain of small matrix products, and one
last product gives the gradient of the parameters.
"""

from __future__ import annotations

from collections.abc import Sequence

from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.adjoint.at_once import Coupled
from scidyn.solvers.adjoint.records import Outer, Steps
from scidyn.solvers.adjoint.together import sweep_together
from scidyn.solvers.arguments import Problem

__all__ = ["check_real", "sweep_or_refuse"]


def check_real(problem: Problem, adjoint: str) -> None:
    """Refuse complex states, whose Jacobians are not matrices of the state's own size.

    Raises
    ------
    OptionError
        If the state is complex.
    """
    if problem.y0.is_complex():
        raise OptionError(f"adjoint={adjoint!r} takes real states; y0 is {problem.y0.dtype}: pass adjoint='discrete'.")


def sweep_or_refuse(problem: Problem, steps: Steps, outer: Outer, params: Sequence[Tensor]) -> list[Tensor | None]:
    """Sweep over all steps at once.

    Raises
    ------
    OptionError
        If the samples mix, or f cannot be evaluated for many steps at once.
    """
    try:
        return sweep_together(problem, steps.at_safe_states(), outer, params)
    except Coupled as reason:
        cause = f" ({str(reason.__cause__).splitlines()[0]})" if reason.__cause__ is not None else ""
        raise OptionError(
            "adjoint='timeparallel' needs an f whose rate of one sample depends on that sample only, written with "
            f"tensor operations: pass adjoint='discrete'{cause}."
        ) from reason
