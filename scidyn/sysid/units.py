"""Typical sizes of the states in the units of the record, and what they do to the system's own values."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from scidyn.sysid.observations import Observations

if TYPE_CHECKING:
    from scidyn.systems import System

__all__ = ["state_scale", "unit_factors"]


def state_scale(system: System, obs: Observations, columns: tuple[int, ...]) -> Tensor:
    """Typical size of each state (state,): from the data where measured, else the system's own."""
    scale = torch.tensor([abs(v) or 1.0 for v in system.initial], dtype=obs.batch.y.dtype, device=obs.batch.y.device)
    for k, column in enumerate(columns):
        values = obs.batch.y[..., k][obs.batch.mask[..., k]].abs()
        scale[column] = values.mean().clamp_min(1e-300)
    return scale


def unit_factors(system: System, scale: Tensor) -> Tensor:
    """What the system's values are multiplied by when states are ``scale`` large instead of ``initial``."""
    own = torch.tensor([abs(v) or 1.0 for v in system.initial], dtype=scale.dtype, device=scale.device)
    ratio = dict(zip(system.state_names, (scale / own).tolist(), strict=True))
    factors = [
        float(np.prod([ratio.get(name, 1.0) ** power for name, power in p.units.items()])) for p in system.parameters
    ]
    return torch.tensor(factors, dtype=scale.dtype, device=scale.device)
