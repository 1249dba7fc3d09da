"""From starting values to the global fit: windows that grow to the whole record, the best half kept each time."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidyn.data import Batch
from scidyn.errors import FitError
from scidyn.sysid.coordinates import Coordinates
from scidyn.sysid.observations import Observations
from scidyn.sysid.shooting import Shooting, solve_states
from scidyn.sysid.starts import starting_parameters, starting_states
from scidyn.sysid.units import unit_factors
from scidyn.training import GaussNewtonResult, Progress, gauss_newton, shooting_lengths, shooting_windows
from scidyn.training.gauss_newton import one_problem

if TYPE_CHECKING:
    from scidyn.systems import System

__all__ = ["search"]

TOLERANCE = 1e-6
LEAD_IN = 12
"""Steps of least squares per stage before the last."""


def search(
    system: System,
    obs: Observations,
    columns: tuple[int, ...],
    coordinates: Coordinates,
    scale: Tensor,
    shooting: Callable[[Batch], Shooting],
    *,
    group_of: Tensor | None,
    floor: Tensor,
    count: int,
    seed: int,
    bar: Progress,
) -> GaussNewtonResult:
    """Best fit of the whole record over all starts.

    Parameters
    ----------
    system, obs, columns, coordinates, scale
        The problem.
    shooting : callable
        Makes the residuals of a batch.
    group_of : Tensor of int, shape (variable,), or None
        Variables that share a noise; None for known noise.
    floor : Tensor, shape (group,)
        Smallest variance of the noise.
    count, seed : int
        Number and seed of the starts.
    bar : Progress
        Told how far the search is.

    Returns
    -------
    GaussNewtonResult
        Of one problem.

    Raises
    ------
    FitError
        If the equation cannot be solved from any start.
    """
    generator = torch.Generator().manual_seed(seed)
    factors = unit_factors(system, scale)
    theta = starting_parameters(system, obs, columns, coordinates, factors, count, generator)
    theta = _inside(theta, coordinates)
    states = starting_states(obs, columns, scale, coordinates.log_states).expand(len(theta), -1, -1, -1).clone()
    lengths = shooting_lengths(obs.batch.t.shape[1])
    for stage, length in enumerate(lengths):
        last = stage == len(lengths) - 1
        bar.stage(f"windows of {length} times" if not last else "whole record")
        windows = shooting_windows(obs.batch, length)
        residuals = shooting(windows.batch)
        z = coordinates.pack(theta, states[:, windows.batch.index, windows.first])
        lower, upper = coordinates.bounds(residuals.rows)
        groups = None if group_of is None else group_of[residuals.variable]
        try:
            result = gauss_newton(
                residuals,
                z,
                lower,
                upper,
                groups=groups,
                floor=floor,
                iterations=100 if last else LEAD_IN,
                tolerance=TOLERANCE,
            )
        except FitError as error:
            raise FitError(
                f"{type(system).__name__} cannot be solved over the record from any of {count} starts; construct "
                "the system with values nearer to the data, or check the units."
            ) from error
        order = result.cost.argsort()
        if last:
            best = int(order[0])
            return one_problem(result, best)
        keep = order[: max(2, -(-len(order) // 2))]
        keep = keep[torch.isfinite(result.cost[keep])]
        theta, y0 = coordinates.unpack(result.estimate[keep])
        states = _follow(system, obs, residuals, windows.batch, windows.first, theta, y0, states[keep])
        bar.advance((stage + 1) / len(lengths))
    raise FitError("the record has no times")


def _inside(theta: Tensor, coordinates: Coordinates) -> Tensor:
    """Candidates moved inside the bounds; those that are not numbers are dropped."""
    y0 = torch.ones(*theta.shape[:-1], 1, coordinates.sizes[1], dtype=theta.dtype)
    z = coordinates.pack(theta.abs().where(coordinates.log_parameters, theta), y0)
    lower, upper = coordinates.bounds(1)
    z = z.clamp(lower, upper)
    theta, _ = coordinates.unpack(z)
    good = torch.isfinite(z).all(dim=1) & torch.isfinite(theta).all(dim=1)
    if not bool(good.any()):
        raise FitError("no starting value is a finite number; construct the system with values near the data.")
    return theta[good]


def _follow(
    system: System,
    obs: Observations,
    residuals: Shooting,
    batch: Batch,
    first: Tensor,
    theta: Tensor,
    y0: Tensor,
    states: Tensor,
) -> Tensor:
    """States (problem, trajectory, time, state) along the fitted windows, where later windows start."""
    problems, rows = y0.shape[:2]
    y = solve_states(
        system,
        theta.repeat_interleave(rows, dim=0),
        y0.flatten(0, 1),
        batch.t.repeat(problems, 1),
        rtol=residuals.rtol,
        atol=residuals.atol,
    ).unflatten(0, (problems, rows))
    inside = torch.isfinite(batch.t)
    window, offset = inside.nonzero(as_tuple=True)
    out = states.clone()
    out[:, batch.index[window], first[window] + offset] = y[:, window, offset]
    return torch.where(torch.isfinite(out), out, states)
