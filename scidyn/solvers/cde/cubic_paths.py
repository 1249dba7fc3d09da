"""Piecewise cubic control paths: with backward differences, or natural splines."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.cde.control_path import ControlPath, check_record
from scidyn.solvers.cde.fill import fill_linear
from scidyn.solvers.cde.splines import (
    backward_slopes,
    hermite_polynomial,
    natural_slopes,
    natural_slopes_through_gaps,
)

__all__ = ["HermiteCubicPath", "NaturalCubicPath"]


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
        x, knots = check_record(x, t, never_observed)
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
        x, knots = check_record(x, t, never_observed)
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
