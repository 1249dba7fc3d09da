"""Signatures of piecewise linear paths up to depth 3, and their logarithms."""

from __future__ import annotations

from torch import Tensor

__all__ = ["log_signature", "signature"]


def signature(steps: Tensor, depth: int) -> list[Tensor]:
    """Signature of the path with increments ``steps``, by Chen's identity.

    Parameters
    ----------
    steps : Tensor, shape (*batch, n, C)
        Increments of the n straight pieces.
    depth : int
        1, 2 or 3.

    Returns
    -------
    list of Tensor
        Levels 1 to ``depth``, of shapes (*batch, C), (*batch, C, C), (*batch, C, C, C).
    """
    one = steps[..., 0, :]
    two = 0.5 * one.unsqueeze(-1) * one.unsqueeze(-2)
    three = two.unsqueeze(-1) * one[..., None, None, :] / 3.0 if depth > 2 else two
    for i in range(1, steps.shape[-2]):
        d = steps[..., i, :]
        square = 0.5 * d.unsqueeze(-1) * d.unsqueeze(-2)
        if depth > 2:
            cube = square.unsqueeze(-1) * d[..., None, None, :] / 3.0
            three = three + two.unsqueeze(-1) * d[..., None, None, :] + one[..., :, None, None] * square.unsqueeze(-3)
            three = three + cube
        if depth > 1:
            two = two + one.unsqueeze(-1) * d.unsqueeze(-2) + square
        one = one + d
    return [one, two, three][:depth]


def log_signature(steps: Tensor, depth: int) -> list[Tensor]:
    """Logarithm of :func:`signature`: a Lie element, as tensors of each level; shapes as there."""
    levels = signature(steps, depth)
    one = levels[0]
    outer = one.unsqueeze(-1) * one.unsqueeze(-2)
    result = [one]
    if depth > 1:
        result.append(levels[1] - 0.5 * outer)
    if depth > 2:
        mixed = one[..., :, None, None] * levels[1].unsqueeze(-3) + levels[1].unsqueeze(-1) * one[..., None, None, :]
        result.append(levels[2] - 0.5 * mixed + outer.unsqueeze(-1) * one[..., None, None, :] / 3.0)
    return result
