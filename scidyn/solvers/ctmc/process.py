"""What a simulator needs to know of a jump process, and the checks its callers share."""

from __future__ import annotations

from typing import Protocol

import torch
from torch import Tensor

from scidyn._check.tensors import finite, floating, increasing
from scidyn._check.values import integer
from scidyn.errors import OptionError, ShapeError

__all__ = ["JumpProcess", "check_times", "generator_on", "repeat_start"]


class JumpProcess(Protocol):
    """A Markov process on a countable set that waits and then jumps.

    ``propensities(x)`` gives the rate of each channel (B, R) at the states ``x`` (B, …);
    ``fire(x, channel)`` gives the states after one jump in each row's channel (B,);
    ``start(x0, trajectories)`` checks initial states and repeats them; ``replay(x0, channels)``
    gives the states along recorded jumps.
    """

    def propensities(self, x: Tensor) -> Tensor:
        """Rate of each channel, shape (*batch, R)."""

    def fire(self, x: Tensor, channel: Tensor) -> Tensor:
        """States after the jumps."""

    def start(self, x0: Tensor, trajectories: int | None) -> Tensor:
        """Checked initial states with a batch axis."""

    def replay(self, x0: Tensor, channels: Tensor) -> Tensor:
        """States before, between and after the jumps."""


def check_times(t: Tensor) -> Tensor:
    """Return 1-D ``t`` in double precision if it has two or more strictly increasing times."""
    floating("t", t)
    if t.ndim != 1 or len(t) < 2:
        raise ShapeError(f"t must have shape (T,) with T >= 2, the first being the start; got {tuple(t.shape)}.")
    return increasing("t", t.detach().to(torch.float64))


def generator_on(device: torch.device, seed: int | None, generator: torch.Generator | None) -> torch.Generator:
    """A generator on ``device``: the one given, or a fresh one from ``seed``."""
    if (seed is None) == (generator is None):
        raise OptionError("pass either seed=<int> or generator=<torch.Generator>, so that the run can be repeated.")
    if generator is not None:
        return generator
    return torch.Generator(device).manual_seed(integer("seed", seed, at_least=0))


def repeat_start(x0: Tensor, event: int, trajectories: int | None) -> Tensor:
    """Give ``x0`` a batch axis in front of its last ``event`` axes, repeated ``trajectories`` times."""
    finite("x0", x0)
    if x0.ndim == event:
        count = 1 if trajectories is None else integer("trajectories", trajectories, at_least=1)
        return x0.unsqueeze(0).repeat(count, *([1] * event))
    if x0.ndim != event + 1:
        raise ShapeError(f"x0 must have {event} or {event + 1} axes; got shape {tuple(x0.shape)}.")
    if trajectories is not None:
        raise OptionError(
            f"trajectories={trajectories} repeats one initial state, but x0 of shape {tuple(x0.shape)} "
            "holds one per trajectory already; drop one of the two."
        )
    return x0.clone()
