"""Noise of the measurements in a mechanistic fit: known, or estimated, and shared by which variables."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import number
from scidyn.errors import OptionError
from scidyn.sysid.observations import Observations

__all__ = ["Noise", "known_noise"]

SMALLEST = 1e-8
"""Least standard deviation of the noise, relative to the spread of the data."""


class Noise(NamedTuple):
    """What a fit knows of the noise before it begins.

    Attributes
    ----------
    known : Tensor, shape (variable,), or None
        Standard deviations on the scale of the noise, if they are given.
    group : Tensor of int, shape (variable,)
        Variables of one group share a standard deviation.
    floor : Tensor, shape (group,)
        Smallest variance.
    """

    known: Tensor | None
    group: Tensor
    floor: Tensor

    @classmethod
    def of(cls, obs: Observations, noise_std: float | Mapping[str, float] | None, shared: bool | None) -> Noise:
        """From the record and the options of the fit."""
        group = _groups(obs, shared)
        link = obs.link(torch.where(obs.batch.mask, obs.batch.y, 1.0))
        spread = torch.stack(
            [
                torch.cat([link[..., k][obs.batch.mask[..., k]] for k in (group == g).nonzero().flatten()]).std()
                for g in range(int(group.max()) + 1)
            ]
        )
        return cls(known_noise(noise_std, obs), group, (SMALLEST * spread.clamp_min(1e-300)) ** 2)

    def of_residuals(self, variable: Tensor) -> Tensor | None:
        """Group of each residual, given its variable; None if the noise is known."""
        return None if self.known is not None else self.group[variable]

    def estimate(self, residuals: Tensor, variable: Tensor, freedom: int) -> tuple[Tensor, Tensor]:
        """Standard deviations (variable,), and the factor that a covariance from the residuals needs."""
        if self.known is not None:
            return self.known, freedom / residuals.square().sum()
        groups = self.group[variable]
        square = torch.zeros(len(self.floor), dtype=residuals.dtype).index_add(0, groups, residuals**2)
        count = torch.bincount(groups, minlength=len(self.floor))
        variance = square / count * len(residuals) / freedom + self.floor
        return variance.sqrt()[self.group], residuals.new_ones(())

    def log_likelihood(self, cost: float, variable: Tensor) -> float:
        """Of the data on the scale of the noise, from the cost of the fit."""
        n = len(variable)
        value = -cost - 0.5 * n * math.log(2 * math.pi)
        return value - 0.5 * n if self.known is None else value - float(self.known[variable].log().sum())


def known_noise(noise_std: float | Mapping[str, float] | None, obs: Observations) -> Tensor | None:
    """Standard deviation per variable (variable,) as the user gave it, checked."""
    if noise_std is None:
        return None
    each = noise_std if isinstance(noise_std, Mapping) else dict.fromkeys(obs.names, noise_std)
    missing = [n for n in obs.names if n not in each]
    if missing:
        raise OptionError(f"noise_std has no entry for {missing[0]!r}; the variables are {list(obs.names)}.")
    return torch.tensor([number(f"noise_std[{n!r}]", each[n], above=0) for n in obs.names], dtype=obs.batch.y.dtype)


def _groups(obs: Observations, shared: bool | None) -> Tensor:
    """Which variables share a standard deviation (variable,)."""
    if shared is True:
        return torch.zeros(len(obs.names), dtype=torch.int64)
    if shared is False or obs.noise == "lognormal":
        return torch.arange(len(obs.names))
    units = [obs.units[n] for n in obs.names]
    return torch.tensor([sorted(set(units), key=units.index).index(u) for u in units])
