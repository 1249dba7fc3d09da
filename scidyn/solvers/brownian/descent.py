"""Descend a Brownian tree to one time for each row, all rows and both ends of a step together."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.brownian.bridge import left_part, remainder, split_coefficients
from scidyn.solvers.brownian.hashing import normal_pair
from scidyn.solvers.brownian.noise import Noise, join

__all__ = ["SECOND_DRAW", "SNAP", "Layout", "node_normals", "root_of", "row_increments"]

SECOND_DRAW = 1 << 62
SNAP = 1e-9


class Layout(NamedTuple):
    """What tells one tree's arithmetic from another's.

    Attributes
    ----------
    span : float
        Length of the time interval.
    depth : int
        Number of halvings.
    levels : int
        Number of Brownian quantities: W, H, K.
    channels : int
        Number of channels of a row.
    dtype : torch.dtype
        Of the normals.
    """

    span: float
    depth: int
    levels: int
    channels: int
    dtype: torch.dtype


def node_normals(layout: Layout, keys: Tensor, counter: int | Tensor) -> list[Tensor]:
    """As many standard normals a channel as there are levels, of shape (…, B, channels)."""
    cosine, sine = normal_pair(keys, counter, layout.dtype)
    if layout.levels == 1:  # two channels share a hash
        return [torch.cat([cosine, sine], dim=-1)[..., : layout.channels]]
    if layout.levels == 2:
        return [cosine, sine]
    return [cosine, sine, normal_pair(keys, counter + SECOND_DRAW, layout.dtype)[0]]


def root_of(layout: Layout, keys: Tensor) -> Noise:
    """Noise over the whole span."""
    scale = math.sqrt(layout.span)
    deviations = (scale, scale / math.sqrt(12.0), scale / math.sqrt(720.0))
    return Noise(*(n * d for n, d in zip(node_normals(layout, keys, 0), deviations, strict=False)))


def row_increments(layout: Layout, keys: Tensor, early: Tensor, late: Tensor) -> Noise:
    """Noise between two times after the start for each row, of shape (B, channels).

    ``early`` and ``late`` have shape (B, 1); their dtype is that of the sums.
    """
    both = _from_start(layout, keys, torch.stack([early, late]))
    before, until = both.each(lambda x: x[0]), both.each(lambda x: x[1])
    # nothing lies before a step that starts at the beginning, and an empty step is zero
    ratio = (early / late.clamp_min(SNAP * layout.span)).clamp(0.0, 1.0 - 1e-15)
    empty = late - early <= 0
    return remainder(until, before, ratio).each(lambda x: torch.where(empty, 0.0, x).to(layout.dtype))


def _from_start(layout: Layout, keys: Tensor, length: Tensor) -> Noise:
    """Noise over the first ``length``, of shape (2, B, 1), of the span."""
    depth, cells = layout.depth, float(1 << layout.depth)
    x = (length / layout.span * cells).clamp(0.0, cells)
    near = torch.round(x)
    x = torch.where((x - near).abs() < SNAP * x.abs().clamp_min(1.0), near, x)
    cell = torch.floor(x).clamp_max(cells - 1.0)
    inside, index = x - cell, cell.to(torch.int64)
    normals = _along(layout, keys, index)
    half = split_coefficients(0.5, layout.levels)
    node = root_of(layout, keys).each(lambda x: x.to(length.dtype).expand(2, *x.shape))
    total = node.each(torch.zeros_like)
    done, width = torch.zeros_like(length), layout.span
    for level in range(depth):
        scale = math.sqrt(width)
        width *= 0.5
        left = left_part(node, half, scale, [n[level] for n in normals])
        right = remainder(node, left, 0.5)
        go = ((index >> (depth - 1 - level)) & 1).to(torch.bool)
        total = _pick(go, join(total, left, done, width), total)
        done = torch.where(go, done + width, done)
        node = _pick(go, right, left)
    split = (
        _columns(inside) if layout.levels == 3 else split_coefficients(inside.clamp(1e-12, 1.0 - 1e-12), layout.levels)
    )
    part = left_part(node, split, math.sqrt(width), [n[depth] for n in normals])
    part = _pick(inside >= 1.0 - 1e-12, node, part)
    piece = (inside * width).clamp_min(1e-300)
    return _pick(inside > 0, join(total, part, done, piece), total)


def _along(layout: Layout, keys: Tensor, index: Tensor) -> list[list[Tensor]]:
    """Normals of the nodes from the root to the cells: for each quantity a list over the levels.

    Which nodes are met is known from the cell's number, so all levels are hashed at once.
    """
    level = torch.arange(layout.depth + 1, device=index.device).view(-1, *([1] * index.ndim))
    stacked = node_normals(layout, keys, (index >> (layout.depth - level)) + (1 << level))
    return [list(x.unbind(0)) for x in stacked]


def _columns(inside: Tensor) -> Any:
    """Coefficients of three levels for positions (…, 1), each as a column."""
    gain, factor = split_coefficients(inside.squeeze(-1).clamp(1e-6, 1.0 - 1e-6), 3)
    return [[x.unsqueeze(-1) for x in row] for row in gain], [[x.unsqueeze(-1) for x in row] for row in factor]


def _pick(where: Tensor, yes: Noise, no: Noise) -> Noise:
    """Row-wise choice between two noises."""
    return Noise.of(None if a is None or b is None else torch.where(where, a, b) for a, b in zip(yes, no, strict=True))
