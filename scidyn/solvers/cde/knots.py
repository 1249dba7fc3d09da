"""The times of a control path: shared or per row, ragged rows padded with NaN at the end."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import floating, increasing
from scidyn.errors import ShapeError, TimeGridError

__all__ = ["Knots", "check_knots"]


class Knots(NamedTuple):
    """Checked knot times in the form the interpolation uses.

    Attributes
    ----------
    given : Tensor, shape (K,) or (B, K)
        As the user passed them; NaN marks the padding of a shorter row.
    padded : Tensor, shape (1, K) or (B, K)
        The same with each row's padding replaced by its last time.
    last : Tensor of int, shape (1,) or (B,)
        Index of each row's last knot.
    """

    given: Tensor
    padded: Tensor
    last: Tensor

    @property
    def shared(self) -> bool:
        """True if all rows have the same knots."""
        return self.given.ndim == 1


def check_knots(t: Tensor | None, x: Tensor) -> Knots:
    """Check the times ``t`` of the values ``x`` (B, K, C); None means 0, 1, …, K - 1."""
    rows, length = x.shape[0], x.shape[1]
    if t is None:
        t = torch.arange(length, dtype=x.dtype, device=x.device)
    floating("t", t)
    if t.shape not in {(length,), (rows, length)}:
        raise ShapeError(
            f"t must have shape ({length},) or ({rows}, {length}) to fit x of shape {tuple(x.shape)}; "
            f"got {tuple(t.shape)}."
        )
    if length < 2:
        raise ShapeError(f"a control path needs at least two times; x has shape {tuple(x.shape)}.")
    if t.ndim == 1:
        increasing("t", t.detach())
        return Knots(t, t.unsqueeze(0), t.new_full((1,), length - 1, dtype=torch.long))
    known = ~torch.isnan(t)
    count = known.sum(1)
    _check_rows(t.detach(), known, count)
    final = t.gather(1, (count - 1).unsqueeze(1))
    return Knots(t, torch.where(known, t, final), count - 1)


def _check_rows(t: Tensor, known: Tensor, count: Tensor) -> None:
    """Raise if a row is too short, has a gap before its end, or does not increase strictly."""
    if bool((count < 2).any()):
        row = int((count < 2).to(torch.uint8).argmax())
        raise TimeGridError(f"t[{row}] has {int(count[row])} times; a control path needs at least two.")
    gap = known[:, 1:] & ~known[:, :-1]
    if bool(gap.any()):
        row, column = divmod(int(gap.reshape(-1).to(torch.uint8).argmax()), gap.shape[1])
        raise TimeGridError(
            f"t[{row}, {column}] is NaN but t[{row}, {column + 1}] is not; NaN may only pad the end of a row."
        )
    bad = (t[:, 1:] <= t[:, :-1]) | torch.isinf(t[:, 1:]) | torch.isinf(t[:, :-1])
    if bool(bad.any()):
        row, column = divmod(int(bad.reshape(-1).to(torch.uint8).argmax()), bad.shape[1])
        before, after = t[row, column].item(), t[row, column + 1].item()
        raise TimeGridError(
            f"t must be finite and increase strictly along each row: row {row} goes from {before:g} to "
            f"{after:g} at column {column + 1}; sort the row and merge duplicates."
        )
