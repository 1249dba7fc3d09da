"""Signatures and log-signatures of piecewise linear paths to depth three."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.errors import ShapeError

__all__ = ["log_signature"]


def log_signature(x: Tensor, depth: int = 2) -> tuple[Tensor, ...]:
    """Log-signature of the piecewise linear path through the samples, as tensors.

    Level one is the increment, level two the Lévy areas, level three the areas of areas::

        log S = S - S²/2 + S³/3     with S the iterated integrals of levels one to three

    Parameters
    ----------
    x : Tensor, shape (B, K, C)
        Samples without NaN.
    depth : int
        1, 2 or 3.

    Returns
    -------
    tuple of Tensor, shapes (B, C), (B, C, C), (B, C, C, C)
        As many as ``depth``. Level two is antisymmetric; differentiable.

    Raises
    ------
    scidyn.errors.ShapeError, scidyn.errors.OptionError
        If x has not three axes, or the depth is not 1, 2 or 3.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import log_signature
    >>> square = torch.tensor([[[0.0, 0.0], [1.0, 0.0], [1.0, 1.0], [0.0, 1.0], [0.0, 0.0]]])
    >>> log_signature(square)[1][0].tolist()          # its area
    [[0.0, 1.0], [-1.0, 0.0]]
    """
    choice("depth", depth, (1, 2, 3))
    if x.ndim != 3:
        raise ShapeError(f"x must have shape (batch, time, channel); got {tuple(x.shape)}.")
    d = x.diff(dim=1)
    one = d.sum(1)
    if depth == 1:
        return (one,)
    before = d.cumsum(1) - d  # level one up to each piece
    pair = d.unsqueeze(-1) * d.unsqueeze(-2)
    steps = before.unsqueeze(-1) * d.unsqueeze(-2) + 0.5 * pair
    two = steps.sum(1)
    product = one.unsqueeze(-1) * one.unsqueeze(-2)
    area = two - 0.5 * product
    if depth == 2:
        return one, area
    second = steps.cumsum(1) - steps
    third = torch.einsum("bkij,bkl->bijl", second, d)
    third = (
        third + 0.5 * torch.einsum("bki,bkj,bkl->bijl", before, d, d) + torch.einsum("bki,bkj,bkl->bijl", d, d, d) / 6
    )
    mixed = torch.einsum("bi,bjl->bijl", one, two) + torch.einsum("bij,bl->bijl", two, one)
    cube = torch.einsum("bi,bj,bl->bijl", one, one, one)
    return one, area, third - 0.5 * mixed + cube / 3
