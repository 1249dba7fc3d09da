"""A number that says which distance it is."""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor

__all__ = ["Distance"]


@dataclass(frozen=True)
class Distance:
    """A distance between two sets of points, and how it was found.

    Attributes
    ----------
    value : Tensor, shape ()
        The distance; differentiable in the points.
    kind : str
        What it is and how it was computed, in words.
    floor : float or None
        The same distance between two halves of the second set, if asked for: a value near it cannot be told
        from a perfect match of this many points.
    exact : bool
        False if regularised or projected.
    """

    value: Tensor
    kind: str
    floor: float | None = None
    exact: bool = True

    def __float__(self) -> float:
        return float(self.value.detach())

    def __str__(self) -> str:
        floor = "" if self.floor is None else f"; halves of y: {self.floor:.4g}"
        return f"{float(self):.4g} ({self.kind}{floor})"
