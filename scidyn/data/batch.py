"""The tensors a fit sees: one padded batch of trajectories with masks."""

from __future__ import annotations

from typing import NamedTuple

from torch import Tensor

__all__ = ["Batch"]


class Batch(NamedTuple):
    """A batch of trajectories as tensors.

    Attributes
    ----------
    t : Tensor, shape (batch, time)
        Times in the Dataset's units, NaN-padded at the end of a row.
    y : Tensor, shape (batch, time, *space, feature)
        Values; zero where ``mask`` is False.
    mask : Tensor of bool, shape of ``y``
        True where a value was observed.
    control : Tensor, shape (batch, time, control), or None
        Inputs u(t).
    parameter : Tensor, shape (batch, parameter), or None
        Known parameters of each trajectory.
    index : Tensor of int, shape (batch,)
        Which trajectory each row came from.
    """

    t: Tensor
    y: Tensor
    mask: Tensor
    control: Tensor | None
    parameter: Tensor | None
    index: Tensor  # type: ignore[assignment]  # the field shadows tuple.index on purpose
