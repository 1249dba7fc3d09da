"""The log-ODE method: one step over many samples of the path, by its log-signature."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.errors import OptionError
from scidyn.solvers.cde.control_path import ControlPath
from scidyn.solvers.cde.increments import Field, apply_field, check_field, check_state, path_increments
from scidyn.solvers.cde.march import make_solution, march
from scidyn.solvers.cde.signature import log_signature
from scidyn.solvers.cde.steps import STEPS, walk
from scidyn.solvers.solution import Solution

__all__ = ["log_ode"]


def log_ode(
    f: Field,
    X: ControlPath,
    z0: Tensor,
    *,
    window: int,
    depth: int = 2,
    method: str = "rk4",
    substeps: int = 1,
    require_time: bool = True,
    adjoint: str | None = "discrete",
    on_failure: str = "raise",
) -> Solution:
    """Solve ``dz = f(z) dX`` by the log-ODE method: one step over many samples.

    Over a window of knots the path enters through its log-signature L only::

        dz/dθ = Σ_i L^i f_i(z) + Σ_ij L^ij (f_i · ∇) f_j(z) + Σ_ijk L^ijk (f_i · ∇)((f_j · ∇) f_k)(z)

    which for the Lie element L is the same as the sum over brackets of the columns of ``f``.

    Parameters
    ----------
    f : callable
        ``f(t, z)`` of shape (B, H, C), smooth in ``z``; ``t`` is the start of the window.
    X : ControlPath
        Path whose knots are joined by straight lines.
    z0 : Tensor, shape (B, H)
        Initial states.
    window : int
        Knot intervals in a step; the last window may be shorter.
    depth : int
        1, 2 or 3: levels of the log-signature.
    method : str
        "euler", "heun", "midpoint" or "rk4" within a window.
    substeps : int
        Steps within a window.
    require_time : bool
        Refuse a path none of whose channels rises as time does.
    adjoint : str or None
        "discrete", "direct" or None.
    on_failure : str
        "raise", "warn" or "return".

    Returns
    -------
    Solution
        ``y`` of shape (B, windows + 1, H) at the ends of the windows.

    Raises
    ------
    scidyn.errors.OptionError
        If no channel can be time, or options are out of range.
    scidyn.errors.ShapeError
        If shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import LinearPath, log_ode, with_time
    >>> t = torch.linspace(0, 1, 101, dtype=torch.float64)
    >>> X = LinearPath(with_time(torch.sin(6 * t).view(1, -1, 1), t), t)
    >>> z = log_ode(lambda t, z: torch.stack([-z, z], -1), X, torch.ones(1, 1, dtype=torch.float64), window=10)
    >>> z.y.shape
    torch.Size([1, 11, 1])

    References
    ----------
    J. Morrill, C. Salvi, P. Kidger, J. Foster, T. Lyons (2021), Neural rough differential equations for long
    time series.
    """
    check_state(z0)
    choice("adjoint", adjoint, ("discrete", "direct", None))
    choice("depth", depth, (1, 2, 3))
    choice("method", method, STEPS)
    width = integer("window", window, at_least=1)
    count = integer("substeps", substeps, at_least=1)
    if not isinstance(X, ControlPath):
        raise OptionError(f"X must be a ControlPath; got {type(X).__name__}.")
    if require_time and not X.time_channels():
        raise OptionError(
            "no channel of X rises in every row, so the path does not carry time: add it by with_time(x, t), "
            "or pass require_time=False."
        )
    check_field(f, X, z0)
    steps, starts, _ = path_increments(X)
    edges = [*range(0, len(steps), width), len(steps)]
    stacked = torch.stack(steps, dim=1)
    logs = [log_signature(stacked[:, a:b], depth) for a, b in itertools.pairwise(edges)]

    def step(k: int, z: Tensor) -> Tensor:
        time = starts[edges[k]]
        return walk(method, lambda _, z: _along(lambda y: f(time, y), z, logs[k]), z, count)

    states = march(step, z0, len(logs), adjoint)
    times = X.knots[..., edges]
    return make_solution(times, torch.stack(states, dim=1), len(logs) * count, on_failure)


def _along(f: Callable[[Tensor], Tensor], z: Tensor, log: list[Tensor]) -> Tensor:
    """The vector field of a log-signature at ``z``."""
    result = apply_field(f(z), log[0])
    if len(log) > 1:
        result = result + _second(f, z, log[1])
    if len(log) > 2:
        for i in range(log[0].shape[-1]):
            part = log[2][:, i]
            direction = f(z)[..., i]
            result = result + torch.func.jvp(lambda y, part=part: _second(f, y, part), (z,), (direction,))[1]
    return result


def _second(f: Callable[[Tensor], Tensor], z: Tensor, weights: Tensor) -> Tensor:
    """``Σ_ij weights_ij (f_i · ∇) f_j``: one directional derivative for each channel i."""
    columns = f(z)
    result = torch.zeros_like(z)
    for i in range(columns.shape[-1]):
        change = torch.func.jvp(f, (z,), (columns[..., i],))[1]
        result = result + apply_field(change, weights[:, i])
    return result
