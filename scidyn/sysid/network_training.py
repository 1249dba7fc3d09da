"""How a network is trained on a record: short windows, then a growing horizon, then whole trajectories."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, NamedTuple

import torch
from torch import Tensor

from scidyn.data import Batch
from scidyn.sysid.network_field import NetworkField, ShootingObjective, ValidationObjective
from scidyn.training import LBFGS, Adam, FitResult, Progress, Windows, fit, growing_horizon, shooting_windows

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["Recipe", "joined", "polish", "split_stretch", "train"]

LEAD_IN = (0.3, 0.2, 0.1)
"""Shares of the Adam iterations for short windows, half of each trajectory, and three quarters of it."""
HORIZONS = (0.5, 0.75)
SHORTEST_WINDOW = 5
MOST_WINDOWS = 64
VALIDATE_EVERY = 5
REFIT = 2
"""Steps of L-BFGS on the whole record after early stopping, in units of those before it."""


class Recipe(NamedTuple):
    """Options of a training.

    Attributes
    ----------
    iterations : int
        Steps of Adam in all stages.
    learning_rate : float
        Step size of Adam in the lead-in; half of it on whole trajectories.
    weight_decay, network_penalty : float
        Factors of the penalties.
    seed : int
        Seed of the loop.
    """

    iterations: int
    learning_rate: float
    weight_decay: float
    network_penalty: float
    seed: int

    @property
    def lead_in(self) -> list[int]:
        """Steps of the stages before whole trajectories."""
        return [round(share * self.iterations) for share in LEAD_IN]

    @property
    def whole(self) -> int:
        """Steps of Adam on whole trajectories."""
        return max(1, self.iterations - sum(self.lead_in))

    @property
    def polish(self) -> int:
        """Steps of L-BFGS."""
        return max(1, self.iterations // 10)


def split_stretch(whole: Batch, stretch: Tensor) -> tuple[Batch, Windows | None]:
    """The times to train on, and the whole record with only its validation stretch observed (None if empty)."""
    columns = torch.arange(whole.t.shape[1], device=whole.t.device)
    early = columns < stretch.unsqueeze(1)
    longest = int(stretch.max())
    train = whole._replace(
        t=whole.t.masked_fill(~early, torch.nan)[:, :longest],
        y=whole.y[:, :longest],
        mask=(whole.mask & early.unsqueeze(-1))[:, :longest],
    )
    if bool(early.eq(torch.isfinite(whole.t)).all()):
        return train, None
    return train, _from_the_start(whole._replace(mask=whole.mask & ~early.unsqueeze(-1)))


def train(
    field: NetworkField,
    batch: Batch,
    validation: Windows | None,
    recipe: Recipe,
    *,
    visited: Tensor,
    bar: Progress,
    checkpoint: Path | None,
) -> tuple[FitResult, xr.Dataset]:
    """Train ``field`` in place on ``batch``.

    Windows of a few times, each with a start of its own, give the network its first shape; the first half
    and the first three quarters of each trajectory follow, then all of it, by Adam and L-BFGS. Early
    stopping looks at the last two stages only: before them a forecast means little.

    Parameters
    ----------
    field : NetworkField
        Changed in place.
    batch : Batch
        Scaled record.
    validation : Windows or None
        What early stopping looks at.
    recipe : Recipe
        Options.
    visited : Tensor, shape (state, variable)
        Scaled states at which the network is kept small.
    bar : Progress
        Told how far the training is.
    checkpoint : Path or None
        Folder to keep the state in.

    Returns
    -------
    result : FitResult
        Of whole trajectories; ``best_iteration`` counts steps there.
    history : xarray.Dataset
        ``loss``, ``validation`` and ``stage`` over all iterations.
    """
    objective = ShootingObjective(int(batch.mask.sum()), recipe.weight_decay, recipe.network_penalty, visited)
    lead_in = _lead_in(field, batch, objective, recipe, bar, checkpoint)
    result = fit(
        field,
        ValidationObjective(objective, validation),
        _from_the_start(batch),
        stages=[
            Adam(recipe.whole, recipe.learning_rate / 2, clip=1.0, schedule="cosine"),
            LBFGS(recipe.polish),
        ],
        validation=validation,
        validate_every=VALIDATE_EVERY,
        seed=recipe.seed,
        progress=bar,
        checkpoint=None if checkpoint is None else checkpoint / "whole-trajectories",
    )
    return result, joined(lead_in.history, result.history)


def polish(
    field: NetworkField,
    whole: Batch,
    recipe: Recipe,
    *,
    visited: Tensor,
    bar: Progress,
    checkpoint: Path | None,
) -> xr.Dataset:
    """Go on from trained weights on the whole record by L-BFGS, whose loss never rises; returns the history."""
    objective = ShootingObjective(int(whole.mask.sum()), recipe.weight_decay, recipe.network_penalty, visited)
    return fit(
        field,
        objective,
        _from_the_start(whole),
        stages=[LBFGS(REFIT * recipe.polish)],
        seed=recipe.seed,
        progress=bar,
        checkpoint=checkpoint,
    ).history


def _lead_in(
    field: NetworkField,
    batch: Batch,
    objective: ShootingObjective,
    recipe: Recipe,
    bar: Progress,
    checkpoint: Path | None,
) -> FitResult:
    """Short windows, then the first parts of each trajectory."""
    times = batch.t.shape[1]
    shortest = max(SHORTEST_WINDOW, -(-(times - 1) // MOST_WINDOWS) + 1)
    parts = [
        shooting_windows(batch, min(shortest, times)),
        *(_from_the_start(part) for part in growing_horizon(batch, HORIZONS)),
    ]
    counts = recipe.lead_in
    order = [part for part, count in zip(parts, counts, strict=True) for _ in range(count)]
    return fit(
        field,
        objective,
        lambda step, generator: order[step],
        stages=[Adam(count, recipe.learning_rate, clip=1.0, schedule="cosine") for count in counts],
        seed=recipe.seed,
        progress=bar,
        checkpoint=None if checkpoint is None else checkpoint / "lead-in",
    )


def _from_the_start(batch: Batch) -> Windows:
    """One window per trajectory, all of it."""
    return Windows(batch, torch.zeros(batch.t.shape[0], dtype=torch.int64, device=batch.t.device))


def joined(first: xr.Dataset, second: xr.Dataset) -> xr.Dataset:
    """Two histories, one after the other; stages are counted on."""
    import numpy as np
    import xarray as xr

    offset = int(first["stage"].max()) + 1 if first.sizes["iteration"] else 0
    later = second.assign(stage=second["stage"] + offset)
    both = xr.concat([first.drop_vars("iteration"), later.drop_vars("iteration")], dim="iteration")
    return both.assign_coords(iteration=np.arange(both.sizes["iteration"]))
