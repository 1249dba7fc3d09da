"""Control paths: continuous curves through sampled, possibly irregular and incomplete, records."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn._check.tensors import floating
from scidyn.errors import NonFiniteError, ShapeError
from scidyn.solvers.cde.fill import observed_everywhere
from scidyn.solvers.cde.knots import Knots, check_knots

__all__ = ["ControlPath", "check_record", "with_time"]


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


def check_record(x: Tensor, t: Tensor | None, never_observed: float | None) -> tuple[Tensor, Knots]:
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
