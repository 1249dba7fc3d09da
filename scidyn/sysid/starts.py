"""Where a fit begins: values rescaled to the data, matched to their increments, and seeded variations."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scidyn.errors import FitError
from scidyn.sysid.coordinates import Coordinates
from scidyn.sysid.observations import Observations
from scidyn.training import gauss_newton

if TYPE_CHECKING:
    from scidyn.systems import System

__all__ = ["match_increments", "starting_parameters", "starting_states"]

NODES, WEIGHTS = np.polynomial.legendre.leggauss(3)
SPREAD = 1.0
"""Standard deviation of the logarithm (or of the value in its own size) of varied starts."""


def starting_parameters(
    system: System,
    obs: Observations,
    columns: tuple[int, ...],
    coordinates: Coordinates,
    factors: Tensor,
    count: int,
    generator: torch.Generator,
) -> Tensor:
    """``count`` candidates (count, parameter) in physical units.

    The system's own values come first, then the same in the units of the data; then both after
    matching the increments of the record; then seeded variations of all these.
    """
    own = system.theta(factors.dtype, factors.device)
    basis = [own, own * factors]
    start = torch.stack(basis + [_vary(own * factors, coordinates, generator) for _ in range(2)])
    matched = match_increments(system, obs, columns, coordinates, start)
    candidates = [*basis, *matched]
    while len(candidates) < count:
        source = candidates[len(candidates) % (2 + len(matched))]
        candidates.append(_vary(source, coordinates, generator))
    # matched values are the best guesses: keep them when few starts are wanted
    order = [*range(2, 2 + len(matched)), 0, 1, *range(2 + len(matched), len(candidates))]
    return torch.stack([candidates[i] for i in order[: max(count, 1)]])


def _vary(theta: Tensor, coordinates: Coordinates, generator: torch.Generator) -> Tensor:
    noise = SPREAD * torch.randn(theta.shape, generator=generator, dtype=theta.dtype).to(theta.device)
    return torch.where(coordinates.log_parameters, theta * noise.exp(), theta + noise * theta.abs().clamp_min(1e-3))


def starting_states(obs: Observations, columns: tuple[int, ...], scale: Tensor, log_states: Tensor) -> Tensor:
    """States (trajectory, time, state) read off the data: gaps interpolated, hidden states at their scale."""
    batch = obs.batch
    out = scale.expand(*batch.t.shape, -1).clone()
    for row in range(batch.t.shape[0]):
        t = batch.t[row].cpu().numpy()
        for k, column in enumerate(columns):
            seen = batch.mask[row, :, k].cpu().numpy()
            if not seen.any():
                continue
            values = batch.y[row, :, k].cpu().numpy()[seen]
            if bool(log_states[column]):
                values = np.maximum(values, 1e-3 * float(scale[column]))
                filled = np.exp(np.interp(t, t[seen], np.log(values)))
            else:
                filled = np.interp(t, t[seen], values)
            out[row, :, column] = torch.as_tensor(filled, dtype=out.dtype, device=out.device)
    return out


def match_increments(
    system: System, obs: Observations, columns: tuple[int, ...], coordinates: Coordinates, start: Tensor
) -> list[Tensor]:
    r"""Parameters for which ``g(y_{k+1}) − g(y_k) ≈ ∫ g'(ŷ) f(s, ŷ(s); θ) ds`` along an interpolant ``ŷ`` of the data.

    No solve is needed, and the estimate does not depend on units; it is biased by noise and by sparse
    sampling, so it only serves as a start. Empty if a state is not measured.
    """
    if set(columns) != set(range(len(system.states))):
        return []
    parts = [_increments(row, obs, columns, coordinates) for row in range(obs.batch.t.shape[0])]
    parts = [p for p in parts if p is not None]
    if not parts:
        return []
    device, dtype = start.device, start.dtype
    times, states, weights, targets, scales = (
        torch.as_tensor(np.concatenate([p[i] for p in parts]), dtype=dtype, device=device) for i in range(5)
    )

    def residuals(z: Tensor) -> Tensor:
        theta, _ = coordinates.unpack(torch.cat([z, z.new_zeros(len(system.states))]))
        rate = system.vector_field(times.flatten(), states.flatten(0, 1), theta).reshape(states.shape)
        slope = torch.where(coordinates.log_states, states.reciprocal(), 1.0)
        return (((rate * slope * weights.unsqueeze(-1)).sum(1) - targets) / scales).flatten()

    def both(z: Tensor) -> tuple[Tensor, Tensor]:
        return torch.func.vmap(residuals)(z), torch.func.vmap(torch.func.jacrev(residuals))(z)

    count = coordinates.sizes[0]
    dummy = torch.ones(*start.shape[:-1], 1, len(system.states), dtype=dtype, device=device)
    z = coordinates.pack(start, dummy)[..., :count]
    try:
        result = gauss_newton(both, z, coordinates.lower, coordinates.upper, iterations=50, tolerance=1e-6)
    except FitError:
        return []
    order = result.cost.argsort()
    good = [int(i) for i in order if bool(torch.isfinite(result.cost[i]))]
    theta, _ = coordinates.unpack(torch.cat([result.estimate, z.new_zeros(*z.shape[:-1], len(system.states))], dim=-1))
    chosen: list[Tensor] = []
    for i in good:
        if all(float((result.estimate[i] - result.estimate[j]).abs().max()) > 1e-3 for j in good[: len(chosen)]):
            chosen.append(theta[i])
    return chosen[:2]


def _increments(
    row: int, obs: Observations, columns: tuple[int, ...], coordinates: Coordinates
) -> tuple[np.ndarray, ...] | None:
    """Quadrature nodes, states, weights, target increments and their scales of one trajectory."""
    from scipy.interpolate import PchipInterpolator

    batch = obs.batch
    seen = batch.mask[row].cpu().numpy()
    t = batch.t[row].cpu().numpy()
    if seen.sum(axis=0).min() < 3:
        return None
    # only where every variable is inside its observed span
    low = max(t[seen[:, k]][0] for k in range(len(columns)))
    high = min(t[seen[:, k]][-1] for k in range(len(columns)))
    knots = t[(t >= low) & (t <= high) & seen.any(axis=1)]
    if len(knots) < 3:
        return None
    step = np.diff(knots)
    nodes = knots[:-1, None] + step[:, None] * (NODES + 1) / 2
    states = np.empty((*nodes.shape, len(columns)))
    targets = np.empty((len(step), len(columns)))
    for k, column in enumerate(columns):
        values = batch.y[row, :, k].cpu().numpy()[seen[:, k]]
        log = bool(coordinates.log_states[column])
        if log:
            values = np.log(np.maximum(values, 1e-3 * np.abs(values).mean()))
        curve = PchipInterpolator(t[seen[:, k]], values)
        states[..., column] = np.exp(curve(nodes)) if log else curve(nodes)
        targets[:, column] = np.diff(curve(knots))
    scales = np.broadcast_to(np.maximum(targets.std(axis=0), 1e-300), targets.shape)
    return nodes, states, step[:, None] * WEIGHTS / 2, targets, scales
