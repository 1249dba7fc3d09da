"""Residuals of simulated trajectories against data, with their exact Jacobian, for many problems at once."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidyn.data import Batch
from scidyn.solvers import solve_ode, solve_sensitivities
from scidyn.sysid.coordinates import Coordinates

if TYPE_CHECKING:
    from scidyn.systems import System

__all__ = ["Shooting", "solve_states"]


class Shooting:
    """``z -> (r, J)``: link-scale residuals of the observed values and their derivative.

    Parameters
    ----------
    system : System
        The mechanism.
    batch : Batch
        Rows of times, values, mask.
    columns : tuple of int
        State that each variable measures.
    coordinates : Coordinates
        What ``z`` means.
    lognormal : bool
        Compare logarithms.
    rtol : float
        Relative tolerance of the solver.
    state_scale : Tensor, shape (state,)
        Typical size of each state, from which absolute tolerances follow.
    sigma : Tensor, shape (variable,), optional
        Known noise on the link scale; residuals are divided by it.
    max_steps : int, optional
        Cap on the solver's steps.
    """

    def __init__(
        self,
        system: System,
        batch: Batch,
        columns: tuple[int, ...],
        coordinates: Coordinates,
        *,
        lognormal: bool,
        rtol: float,
        state_scale: Tensor,
        sigma: Tensor | None = None,
        max_steps: int | None = None,
    ) -> None:
        self.system, self.batch, self.coordinates = system, batch, coordinates
        self.columns, self.lognormal = list(columns), lognormal
        self.rtol, self.atol = rtol, 1e-3 * rtol * state_scale
        self.max_steps = max_steps or max(1000, 60 * batch.t.shape[1])
        self.sigma = sigma
        self.where = batch.mask.nonzero(as_tuple=True)
        observed = batch.y[self.where]
        self.target = observed.log() if lognormal else observed
        self.variable = self.where[2]

    @property
    def rows(self) -> int:
        """Number of initial states."""
        return self.batch.t.shape[0]

    def __call__(self, z: Tensor) -> tuple[Tensor, Tensor]:
        """Evaluate for ``z`` of shape (problem, P)."""
        problems, rows = z.shape[0], self.rows
        count, states = self.coordinates.sizes
        theta, y0 = self.coordinates.unpack(z)
        usable = torch.isfinite(theta).all(-1) & torch.isfinite(y0).all(-1).all(-1)
        theta = torch.where(usable[:, None], theta, 1.0)
        y0 = torch.where(usable[:, None, None], y0, 1.0)
        solution, d_theta, d_y0 = solve_sensitivities(
            self.system,
            y0.reshape(-1, states),
            self.batch.t.repeat(problems, 1),
            theta.repeat_interleave(rows, dim=0),
            rtol=self.rtol,
            atol=self.atol,
            max_steps=self.max_steps,
            stepping="per_sample",
            on_failure="return",
        )
        y = solution.y.unflatten(0, (problems, rows))[..., self.columns]
        d_theta = d_theta.unflatten(0, (problems, rows))[..., self.columns, :]
        d_y0 = d_y0.unflatten(0, (problems, rows))[..., self.columns, :]
        # chain rule into the coordinates of the problem
        d_theta = d_theta * torch.where(self.coordinates.log_parameters, theta, 1.0)[:, None, None, None]
        d_y0 = d_y0 * torch.where(self.coordinates.log_states, y0, 1.0)[:, :, None, None]
        row, time, variable = self.where
        value = y[:, row, time, variable]
        slope = value.new_ones(value.shape)
        if self.lognormal:
            value = torch.where(value > 0, value, torch.nan)
            value, slope = value.log(), value.reciprocal()
        if self.sigma is not None:
            slope = slope / self.sigma[variable]
        residual = (value - self.target) / (1.0 if self.sigma is None else self.sigma[variable])
        jacobian = value.new_zeros(*value.shape, count + rows * states)
        jacobian[..., :count] = d_theta[:, row, time, variable] * slope.unsqueeze(-1)
        initial = d_y0[:, row, time, variable] * slope.unsqueeze(-1)
        place = count + row.unsqueeze(1) * states + torch.arange(states, device=z.device)
        jacobian.scatter_(2, place.expand(problems, -1, -1), initial)
        bad = ~usable[:, None] | ~torch.isfinite(residual)
        return residual.masked_fill(bad, torch.nan), torch.nan_to_num(jacobian, nan=0.0, posinf=0.0, neginf=0.0)


def solve_states(
    system: System, theta: Tensor, y0: Tensor, times: Tensor, *, rtol: float, atol: Tensor, on_failure: str = "return"
) -> Tensor:
    """States (row, time, state) of rows with own parameters, initial states and, if 2-D, own times."""
    solution = solve_ode(
        system,
        y0,
        times.expand(y0.shape[0], -1) if times.ndim == 1 else times,
        args=theta,
        rtol=rtol,
        atol=atol,
        stepping="per_sample",
        adjoint=None,
        max_steps=max(4096, 200 * times.shape[-1]),
        on_failure=on_failure,
    )
    return solution.y
