"""What a controlled equation needs of its path: increments between knots, checked states and fields."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from scidyn._check.tensors import floating
from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.cde.control_path import ControlPath

__all__ = ["Field", "apply_field", "check_field", "check_state", "path_increments", "reported_knots"]

Field = Callable[..., Tensor]


def apply_field(matrix: Tensor, dx: Tensor) -> Tensor:
    """``f dX`` for each row."""
    return torch.bmm(matrix, dx.unsqueeze(-1)).squeeze(-1)


def check_state(z0: Any) -> None:
    """Refuse states that are not rows."""
    if not isinstance(z0, Tensor) or z0.ndim != 2:
        found = tuple(z0.shape) if isinstance(z0, Tensor) else type(z0).__name__
        raise ShapeError(f"z0 must be a tensor of shape (batch, hidden); got {found}.")
    floating("z0", z0)


def check_field(f: Field, X: ControlPath, z0: Tensor) -> None:
    """Evaluate once and compare shapes."""
    wanted = (*z0.shape, X.channels)
    if X.values.shape[0] != z0.shape[0]:
        raise ShapeError(f"z0 has {z0.shape[0]} rows, the path has {X.values.shape[0]}.")
    if X.values.dtype != z0.dtype:
        raise ShapeError(f"z0 has dtype {z0.dtype}, the path has {X.values.dtype}: convert one of them.")
    with torch.no_grad():
        value = f(knot_times(X)[..., 0].to(z0.dtype), z0.detach())
    if not isinstance(value, Tensor) or value.shape != wanted:
        found = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
        raise ShapeError(f"f must return shape {wanted}, (batch, hidden, channels of X); it returned {found}.")


def knot_times(X: ControlPath) -> Tensor:
    """Knots with padding replaced by the row's last time."""
    knots = X.knots
    return knots if knots.ndim == 1 else knots.nan_to_num(nan=-torch.inf).cummax(dim=1).values


def path_increments(X: ControlPath) -> tuple[list[Tensor], list[Tensor], list[Tensor]]:
    """Increments (B, C), start times and lengths of every knot interval; rows that ended stand still."""
    knots, values = knot_times(X), X.values
    moves = values.diff(dim=1)
    if knots.ndim == 2:
        moves = torch.where((knots.diff(dim=1) > 0).unsqueeze(-1), moves, torch.zeros_like(moves))
    times = knots.to(values.dtype)
    return list(moves.unbind(1)), list(times[..., :-1].unbind(-1)), list(times.diff(dim=-1).unbind(-1))


def reported_knots(X: ControlPath, t: Any) -> tuple[Tensor, list[int]]:
    """Times to report and their places among the knots."""
    knots = X.knots
    if t is None:
        return knots, list(range(knots.shape[-1]))
    if knots.ndim == 2:
        raise OptionError("rows with knots of their own are reported at all knots: leave t out, or use route='ode'.")
    times = torch.as_tensor(t, dtype=knots.dtype, device=knots.device)
    places = (times.unsqueeze(-1) - knots).abs().argmin(-1)
    gap = (knots[places] - times).abs()
    if bool((gap > 1e-6 * (knots[-1] - knots[0])).any()):
        late = times[gap.argmax()].item()
        raise TimeGridError(f"t={late:g} is not a knot of the path, where the increments route stops: use route='ode'.")
    return times, places.tolist()
