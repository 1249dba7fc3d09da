"""What a step-size controller may know of an attempted step."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

__all__ = ["Memory", "Trial", "positive"]

Memory = tuple[Tensor, Tensor]


class Trial(NamedTuple):
    """What a controller may know of an attempted step; time-like entries have shape (1,) or (batch,).

    Attributes
    ----------
    ratio : Tensor
        Error over allowed error.
    accepted : Tensor of bool
        Whether the step counts.
    h : Tensor
        Its size.
    order : int
        Power of the step size in the error estimate.
    iterations : Tensor or None
        Newton iterations of its slowest stage, of an implicit method that counts them.
    most : int
        Largest number of them.
    """

    ratio: Tensor
    accepted: Tensor
    h: Tensor
    order: int
    iterations: Tensor | None = None
    most: int = 1


def positive(ratio: Tensor) -> Tensor:
    """Keep away from zero and infinity, whose powers are not finite."""
    info = torch.finfo(ratio.dtype)
    return ratio.clamp(info.tiny, info.max**0.25)
