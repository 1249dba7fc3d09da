"""Tell the caller which samples failed, where, why, and what to do."""

from __future__ import annotations

import warnings

from torch import Tensor

from scidyn.errors import SolverError, SolverWarning
from scidyn.solvers.solution import Solution

__all__ = ["report"]

LISTED = 5


def report(solution: Solution, last_size: Tensor, on_failure: str) -> Solution:
    """Return ``solution``, or raise or warn as asked if a sample did not reach its last time."""
    if solution.success or on_failure == "return":
        return solution
    message = _message(solution, last_size)
    if on_failure == "raise":
        raise SolverError(message, solution)
    warnings.warn(message, SolverWarning, stacklevel=3)
    return solution


def _message(solution: Solution, last_size: Tensor) -> str:
    """List up to five failed samples, then each cure once."""
    failed = [(i, s) for i, s in enumerate(solution.status) if not s.success]
    reached, steps = solution.stats.reached.tolist(), solution.stats.n_steps.tolist()
    sizes = last_size.expand(len(steps)).tolist()
    lines = [
        f"sample {i} stopped at t={reached[i]:.6g} after {steps[i]} steps (last step {sizes[i]:.2g}): "
        f"{status.name}, {status.sentence}"
        for i, status in failed[:LISTED]
    ]
    more = f"; {len(failed) - LISTED} more" if len(failed) > LISTED else ""
    cures = "; ".join(dict.fromkeys(status.cure for _, status in failed))
    return f"{len(failed)} of {len(steps)} samples failed: {'; '.join(lines)}{more}. Cure: {cures}."
