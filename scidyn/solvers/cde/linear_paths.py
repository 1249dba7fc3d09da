"""Piecewise linear control paths: through the samples, or causal staircases."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn._check.values import integer
from scidyn.errors import OptionError, TimeGridError
from scidyn.solvers.cde.control_path import ControlPath, check_record
from scidyn.solvers.cde.fill import fill_forward, fill_linear
from scidyn.solvers.cde.knots import check_knots
from scidyn.solvers.cde.splines import (
    secants,
)

__all__ = ["LinearPath", "RectilinearPath"]


class LinearPath(ControlPath):
    """Piecewise linear interpolation.

    Missing values are interpolated linearly between a channel's neighbouring observations
    and held before its first and after its last.

    Parameters
    ----------
    x : Tensor, shape (B, K, C) or (K, C)
        Samples; NaN means missing. Time should be one of the channels, see :func:`with_time`.
    t : Tensor, shape (K,) or (B, K), optional
        Strictly increasing times; NaN may pad the end of a row, whose samples there are
        ignored. Default 0, 1, …, K - 1.
    never_observed : float, optional
        Value of a channel that has no observation in some row; by default such a channel is an error.

    Raises
    ------
    scidyn.errors.TimeGridError
        If a row's times do not increase strictly, have gaps, or are fewer than two.
    scidyn.errors.DataError
        If a channel is never observed in some row, or x is infinite somewhere.
    scidyn.errors.ShapeError
        If shapes or dtypes do not fit.

    Notes
    -----
    Good with fixed steps that land on the knots; an adaptive solver must be told of the kinks,
    which :func:`scidyn.solvers.solve_cde` does.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import LinearPath
    >>> X = LinearPath(torch.tensor([[0.0], [2.0], [float("nan")], [5.0]]), torch.tensor([0.0, 1, 2, 4]))
    >>> X.evaluate(2.0), X.derivative(0.5)
    (tensor([[3.]]), tensor([[2.]]))
    """

    kinked = True

    def __init__(self, x: Tensor, t: Tensor | None = None, *, never_observed: float | None = None) -> None:
        x, knots = check_record(x, t, never_observed)
        values = fill_linear(x, knots.padded).to(x.dtype)
        super().__init__(knots, values, (values[:, :-1], secants(knots.padded, values)))


class RectilinearPath(ControlPath):
    """Causal staircase: time advances with the values held, then the values jump with time held.

    The path runs over its own parameter ``u = 0, 1, …, 2K - 2``: at ``u = 2k`` observation k
    has been taken in whole, between ``2k`` and ``2k + 1`` only the time channel moves. What
    the response has seen at ``u`` never depends on later observations.

    Parameters
    ----------
    x : Tensor, shape (B, K, C) or (K, C)
        Samples, time among the channels; NaN means missing and is filled with the last observation.
    t : Tensor, shape (K,) or (B, K), optional
        Times, used only to tell padding: a row ends where its times turn NaN.
    time_channel : int
        Which channel of ``x`` is time.
    never_observed : float, optional
        Value of a channel that has no observation in some row; by default such a channel is an error.

    Attributes
    ----------
    observation_knots : Tensor, shape (K,)
        Parameter values ``2k`` at which the observations are complete; ask for the solution there.

    Raises
    ------
    scidyn.errors.DataError
        If a channel's first value is missing, or time goes back.
    scidyn.errors.ShapeError, scidyn.errors.OptionError
        If shapes do not fit or the time channel does not exist.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import RectilinearPath
    >>> X = RectilinearPath(torch.tensor([[0.0, 1.0], [0.5, 3.0]]))   # (time, value)
    >>> X.values[0].tolist()
    [[0.0, 1.0], [0.5, 1.0], [0.5, 3.0]]

    References
    ----------
    Morrill, Kidger, Yang, Lyons (2021), Neural controlled differential equations for online prediction tasks.
    """

    kinked = True

    def __init__(
        self,
        x: Tensor,
        t: Tensor | None = None,
        *,
        time_channel: int = 0,
        never_observed: float | None = None,
    ) -> None:
        x, _ = check_record(x, t, never_observed)
        channel = integer("time_channel", time_channel, at_least=0)
        if channel >= x.shape[-1]:
            raise OptionError(f"time_channel must be below the {x.shape[-1]} channels of x; got {channel}.")
        held = fill_forward(x)
        if bool((held[:, 1:, channel] < held[:, :-1, channel]).any()):
            raise TimeGridError(f"channel {channel} of x, named as time, goes back somewhere; sort the rows.")
        stair = held.repeat_interleave(2, dim=1)
        is_time = torch.arange(x.shape[-1], device=x.device) == channel
        values = torch.where(is_time, stair[:, 1:], stair[:, :-1])
        knots = check_knots(None, values)
        super().__init__(knots, values, (values[:, :-1], values.diff(dim=1)))

    @property
    def observation_knots(self) -> Tensor:
        """Parameter values at which each observation is complete."""
        return self.knots[::2]
