"""Control paths: continuous curves through sampled, possibly irregular and incomplete, records."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn._check.tensors import floating
from scidyn._check.values import integer
from scidyn.errors import NonFiniteError, OptionError, ShapeError, TimeGridError
from scidyn.solvers.cde.fill import fill_forward, fill_linear, observed_everywhere
from scidyn.solvers.cde.knots import Knots, check_knots
from scidyn.solvers.cde.splines import (
    backward_slopes,
    hermite_polynomial,
    natural_slopes,
    natural_slopes_through_gaps,
    secants,
)

__all__ = [
    "ControlPath",
    "HermiteCubicPath",
    "LinearPath",
    "NaturalCubicPath",
    "RectilinearPath",
    "with_time",
]


def with_time(x: Tensor, t: Tensor) -> Tensor:
    """Put the times in front of the samples as channel 0.

    Parameters
    ----------
    x : Tensor, shape (B, K, C)
        Samples.
    t : Tensor, shape (K,) or (B, K)
        Their times.

    Returns
    -------
    Tensor, shape (B, K, C + 1)
        In the dtype of ``x``.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes do not fit.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import with_time
    >>> with_time(torch.tensor([[[5.0], [7.0]]]), torch.tensor([0.0, 0.5]))[0].tolist()
    [[0.0, 5.0], [0.5, 7.0]]
    """
    if x.ndim != 3 or t.shape not in {x.shape[1:2], x.shape[:2]}:
        raise ShapeError(
            f"x must have shape (batch, time, channel) and t (time,) or (batch, time); "
            f"got {tuple(x.shape)} and {tuple(t.shape)}."
        )
    return torch.cat([t.to(x).expand(x.shape[:2]).unsqueeze(-1), x], dim=-1)


class ControlPath:
    """A piecewise polynomial path ``X: [t_0, t_K] → ℝ^C`` for each row of a batch.

    On the interval that starts at knot ``t_k``, with ``s = t - t_k``::

        X(t) = a_k + b_k s + c_k s² + d_k s³

    Before the first and after the last knot of a row the path is constant, so a short row
    of a ragged batch simply stops moving. Make one of the four subclasses from data.

    Parameters
    ----------
    knots : Knots
        Checked times.
    values : Tensor, shape (B, K, C)
        The path at the knots.
    coefficients : tuple of Tensor, each of shape (B, K - 1, C)
        Of every piece.

    Attributes
    ----------
    knots : Tensor, shape (K,) or (B, K)
        Where the pieces meet; NaN pads the end of short rows.
    values : Tensor, shape (B, K, C)
        The path at the knots, missing values filled in.
    coefficients : tuple of Tensor, each of shape (B, K - 1, C)
        ``(a, b)`` for piecewise linear paths, ``(a, b, c, d)`` for cubic ones.
    interval : Tensor, shape (2,) or (B, 2)
        First and last time of each row.
    kinked : bool
        True if the derivative jumps at the knots, so that a solver should land on them.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import ControlPath, LinearPath
    >>> isinstance(LinearPath(torch.tensor([[0.0], [1.0]])), ControlPath)
    True
    """

    kinked: bool = False

    def __init__(self, knots: Knots, values: Tensor, coefficients: tuple[Tensor, ...]) -> None:
        self._knots = knots
        self.values = values
        self.coefficients = tuple(k.to(values.dtype) for k in coefficients)
        # one lookup per evaluation: (K - 1, pieces, B, C)
        self._table = torch.stack(self.coefficients).permute(2, 0, 1, 3).contiguous()

    def __repr__(self) -> str:
        rows, length, channels = self.values.shape
        kind = "shared" if self._knots.shared else "per-row"
        return f"{type(self).__name__}({rows} x {length} {kind} knots x {channels} channels)"

    @property
    def knots(self) -> Tensor:
        """Where the pieces meet."""
        return self._knots.given

    @property
    def interval(self) -> Tensor:
        """First and last time of each row."""
        padded = self._knots.padded
        ends = torch.stack([padded[:, 0], padded[:, -1]], dim=-1)
        return ends[0] if self._knots.shared else ends

    @property
    def channels(self) -> int:
        """Number of channels of the path."""
        return self.values.shape[-1]

    def time_channels(self) -> list[int]:
        """Channels that never fall and rise in every row: those that can stand for time."""
        steps = self.values.detach().diff(dim=1)
        total = self.values[:, -1].detach() - self.values[:, 0].detach()
        smallest = steps.amin((0, 1))
        return [c for c in range(self.channels) if bool((smallest[c] >= 0) & (total[:, c] > 0).all())]

    def evaluate(self, t: Tensor | float) -> Tensor:
        """Evaluate X.

        Parameters
        ----------
        t : Tensor, shape (), (N,) or (B, N)
            One time for all rows, N times for all rows, or N times for each row.

        Returns
        -------
        Tensor, shape (B, C), (B, N, C) or (B, N, C)
        """
        s, k, shape, _ = self._locate(t)
        if len(k) == 2:
            return (k[0] + s * k[1]).reshape(shape)
        return (k[0] + s * (k[1] + s * (k[2] + s * k[3]))).reshape(shape)

    def derivative(self, t: Tensor | float) -> Tensor:
        """Evaluate dX/dt; at a knot the derivative from the right, zero outside the interval.

        Parameters
        ----------
        t : Tensor, shape (), (N,) or (B, N)
            As for :meth:`evaluate`.

        Returns
        -------
        Tensor, shape (B, C), (B, N, C) or (B, N, C)
        """
        s, k, shape, outside = self._locate(t)
        slope = k[1] if len(k) == 2 else k[1] + s * (2 * k[2] + 3 * s * k[3])
        return torch.where(outside, torch.zeros_like(slope), slope).reshape(shape)

    def _locate(self, t: Tensor | float) -> tuple[Tensor, Tensor, tuple[int, ...], Tensor]:
        """Time since the piece's start, its coefficients, the result's shape, where t is outside."""
        knots, last = self._knots.padded, self._knots.last
        rows, channels = self.values.shape[0], self.channels
        query = torch.as_tensor(t, dtype=knots.dtype, device=knots.device)
        if query.ndim > 2 or (query.ndim == 2 and query.shape[0] != rows):
            raise ShapeError(
                f"t must have shape (), (N,) or ({rows}, N) for a path of {rows} rows; got {tuple(query.shape)}."
            )
        shape = (rows, channels) if query.ndim == 0 else (rows, query.shape[-1], channels)
        lines = query.reshape(1, -1) if query.ndim < 2 else query
        first, final = knots[:, :1], knots[:, -1:]
        outside = ((lines < first) | (lines > final)).unsqueeze(-1)
        held = lines.clamp(first, final)
        knots = knots.expand(len(held), -1)
        index = torch.searchsorted(knots.detach().contiguous(), held.detach().contiguous(), right=True) - 1
        index = index.clamp_min(0).minimum((last - 1).unsqueeze(1))
        s = (held - knots.gather(1, index)).to(self.values.dtype).unsqueeze(-1)
        if index.shape[0] == 1:  # (N, pieces, B, C) → (pieces, B, N, C)
            pieces = self._table.index_select(0, index[0]).permute(1, 2, 0, 3)
        else:
            row = torch.arange(rows, device=index.device).unsqueeze(1)
            pieces = self._table.permute(2, 0, 1, 3)[row, index].permute(2, 0, 1, 3)
        return s, pieces, shape, outside


def _checked(x: Tensor, t: Tensor | None, never_observed: float | None) -> tuple[Tensor, Knots]:
    """Validate a record: (B, K, C) floating values whose padding follows that of ``t``."""
    floating("x", x)
    if x.ndim == 2:
        x = x.unsqueeze(0)
    if x.ndim != 3:
        raise ShapeError(f"x must have shape (batch, time, channel) or (time, channel); got {tuple(x.shape)}.")
    if bool(torch.isinf(x.detach()).any()):
        raise NonFiniteError("x contains infinite values; only NaN, for missing, is allowed.")
    knots = check_knots(t, x)
    if not knots.shared:
        beyond = torch.arange(x.shape[1], device=x.device).unsqueeze(0) > knots.last.unsqueeze(1)
        x = torch.where(beyond.unsqueeze(-1), torch.full_like(x, float("nan")), x)
    return observed_everywhere(x, never_observed), knots


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
        x, knots = _checked(x, t, never_observed)
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
        x, _ = _checked(x, t, never_observed)
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


class HermiteCubicPath(ControlPath):
    """Cubic Hermite interpolation whose slope at a knot is the difference with the knot before.

    Continuously differentiable, and causal up to the next sample: the piece between two
    knots depends on no later one. The slope at the first knot is the first chord.

    Parameters
    ----------
    x : Tensor, shape (B, K, C) or (K, C)
        Samples; NaN means missing and is filled as in :class:`LinearPath`.
    t : Tensor, shape (K,) or (B, K), optional
        Strictly increasing times; NaN may pad the end of a row. Default 0, 1, …, K - 1.
    never_observed : float, optional
        Value of a channel that has no observation in some row; by default such a channel is an error.

    Raises
    ------
    scidyn.errors.TimeGridError, scidyn.errors.DataError, scidyn.errors.ShapeError
        As for :class:`LinearPath`.

    Notes
    -----
    The usual choice with adaptive steps.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import HermiteCubicPath
    >>> X = HermiteCubicPath(torch.tensor([[0.0], [1.0], [3.0]]))
    >>> X.derivative(torch.tensor([0.0, 1.0, 2.0]))[0, :, 0].tolist()
    [1.0, 1.0, 2.0]

    References
    ----------
    Morrill, Kidger, Yang, Lyons (2021), Neural controlled differential equations for online prediction tasks.
    """

    def __init__(self, x: Tensor, t: Tensor | None = None, *, never_observed: float | None = None) -> None:
        x, knots = _checked(x, t, never_observed)
        values = fill_linear(x, knots.padded).to(x.dtype)
        slopes = backward_slopes(knots.padded, values)
        super().__init__(knots, values, hermite_polynomial(knots.padded, values, *slopes))


class NaturalCubicPath(ControlPath):
    """Natural cubic spline: twice continuously differentiable, second derivative zero at both ends.

    Each channel's spline goes through that channel's own observations; a missing first or
    last value is replaced by the nearest observation.

    Parameters
    ----------
    x : Tensor, shape (B, K, C) or (K, C)
        Samples; NaN means missing.
    t : Tensor, shape (K,) or (B, K), optional
        Strictly increasing times; NaN may pad the end of a row. Default 0, 1, …, K - 1.
    never_observed : float, optional
        Value of a channel that has no observation in some row; by default such a channel is an error.

    Raises
    ------
    scidyn.errors.TimeGridError, scidyn.errors.DataError, scidyn.errors.ShapeError
        As for :class:`LinearPath`.

    Notes
    -----
    The smoothest choice, and not causal: every piece depends on all samples, so never use it
    for predictions that are to be made as the data arrive.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import NaturalCubicPath
    >>> X = NaturalCubicPath(torch.tensor([[0.0], [1.0], [0.0]]))
    >>> X.evaluate(0.5)
    tensor([[0.6875]])
    """

    def __init__(self, x: Tensor, t: Tensor | None = None, *, never_observed: float | None = None) -> None:
        x, knots = _checked(x, t, never_observed)
        filled = fill_linear(x, knots.padded).to(x.dtype)
        if not bool(torch.isnan(x.detach()).any()):
            slopes = natural_slopes(knots.padded, filled)
            super().__init__(knots, filled, hermite_polynomial(knots.padded, filled, *slopes))
            return
        index = torch.arange(x.shape[1], device=x.device).view(1, -1, 1)
        end = (index == 0) | (index == knots.last.view(-1, 1, 1))
        anchored = torch.where(end, filled, x)
        time = knots.padded.expand(x.shape[:2])
        values, slopes_at = natural_slopes_through_gaps(time, anchored)
        values = values.to(x.dtype)
        pieces = hermite_polynomial(knots.padded, values, slopes_at[:, :-1], slopes_at[:, 1:])
        super().__init__(knots, values, pieces)
