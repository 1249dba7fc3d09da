"""``solve_ode`` inside the transforms of ``torch.func``."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.methods import METHODS
from scidyn.solvers.solution import Solution
from scidyn.solvers.transforms import Solver, transformed

__all__ = ["solve_transformed"]

NOT_TRANSFORMED = ("events", "jump_times", "jump", "regularize", "dense")


def solve_transformed(solve: Callable[..., Solution], given: dict[str, Any]) -> Solution | None:
    """Solve as a transform wants it from the arguments ``given`` to ``solve``; None if none of them is transformed.

    Raises
    ------
    OptionError
        If an option does not go with a transform.
    """
    options = dict(given)
    f, y0, t, args, params = (options.pop(name) for name in ("f", "y0", "t", "args", "params"))
    if not callable(f) or not isinstance(y0, Tensor):
        return None
    times = t if isinstance(t, Tensor) else torch.as_tensor(t)
    method = METHODS.get(options["method"]) if isinstance(options["method"], str) else options["method"]
    if method is None or not times.ndim:
        return None
    times = times.to(torch.float32 if y0.device.type == "mps" else torch.float64)
    own_times = options["stepping"] == "per_sample"
    adjoint = options["adjoint"]

    def run(g: Callable[..., Tensor], rows: Tensor, when: Tensor, used: Sequence[Tensor]) -> Solution:
        chosen = [*used, *(params or ())]
        return solve(g, rows, when, **(options | {"params": chosen, "compile": False}))

    found: Solution | None = transformed(Solver(run, own_times), f, y0, times, args)
    if found is None:
        return None
    refused = [name for name in NOT_TRANSFORMED if options.get(name)]
    if refused:
        raise OptionError(f"{refused[0]} does not go through torch.func transforms: call solve_ode outside of them.")
    if adjoint is None:
        raise OptionError("adjoint=None inside a torch.func transform: leave it out, or detach the result.")
    return found
