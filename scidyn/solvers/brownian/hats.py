"""A Brownian path without its time integrals, as a sum of hat functions with normal coefficients.

Lévy's construction: with nodes of all levels on the way to ``t``, of lengths ``w``::

    W(t) = t / T · √T n_root + Σ_nodes √w / 2 · hat((t - start) / w) n_node + √(w p (1 - p)) n_cell

where ``hat`` rises from 0 to 1 at the middle and falls to 0, and the last term is the bridge at the
part ``p`` of a cell. An increment needs no difference of two paths: the weights of common nodes are
subtracted before they meet the normals.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from scidyn.solvers.brownian.descent import SNAP, Layout, node_normals
from scidyn.solvers.brownian.hashing import compiled, normal_pair

__all__ = ["Hats", "row_hats"]


class Hats:
    """Increments of one path at one time for all rows; normals of the last path are remembered."""

    def __init__(self, layout: Layout, keys: Tensor) -> None:
        self.layout, self.keys = layout, keys
        self._known: dict[int, Tensor] = {}

    def increment(self, start: tuple[int, float], stop: tuple[int, float]) -> Tensor:
        """Increment between two places, each a cell and a part of it; shape (B, channels)."""
        weights = self._weights(*stop)
        for code, weight in self._weights(*start).items():
            weights[code] = weights.get(code, 0.0) - weight
        weights = {code: weight for code, weight in weights.items() if weight != 0.0}
        if not weights:
            return self.keys.new_zeros((self.keys.shape[0], self.layout.channels), dtype=self.layout.dtype)
        known = self._normals(list(weights))
        (first, weight), *rest = weights.items()
        total = known[first] * weight
        for code, weight in rest:
            total.add_(known[code], alpha=weight)
        return total

    def _weights(self, cell: int, p: float) -> dict[int, float]:
        """Weight of every node on the way; the root's own increment has code 0."""
        depth, span = self.layout.depth, self.layout.span
        weights = {0: math.sqrt(span) * (cell + p) / (1 << depth)}
        for level in range(depth):
            below = 1 << (depth - level)
            index = cell // below
            place = (cell - index * below + p) / below
            weights[(1 << level) + index] = 0.5 * math.sqrt(span / (1 << level)) * 2.0 * min(place, 1.0 - place)
        if p > 0.0:
            weights[(1 << depth) + cell] = math.sqrt(span / (1 << depth) * p * (1.0 - p))
        return weights

    def _normals(self, codes: list[int]) -> dict[int, Tensor]:
        """Normals of some nodes; all that are not known are hashed at once."""
        known = self._known
        missing = [code for code in codes if code not in known]
        if missing:
            if len(known) + len(missing) > 4 * self.layout.depth + 16:
                known = self._known = {code: known[code] for code in codes if code in known}
            counters = torch.tensor(missing, dtype=torch.int64, device="cpu").to(self.keys.device)
            (normals,) = node_normals(self.layout, self.keys, counters.view(-1, 1, 1))
            known.update(zip(missing, normals.unbind(0), strict=True))
        return known


def row_hats(layout: Layout, keys: Tensor, early: Tensor, late: Tensor, fuse: bool) -> Tensor:
    """Increments between two times after the start, each of shape (B,), for each row; shape (B, channels)."""
    # all nodes on the way to both ends together: their codes follow from the number of the cell
    depth, span, cells = layout.depth, layout.span, float(1 << layout.depth)
    x = (torch.stack([early, late]) / span * cells).clamp(0.0, cells)
    near = torch.round(x)
    x = torch.where((x - near).abs() < SNAP * x.abs().clamp_min(1.0), near, x)
    cell = torch.floor(x).clamp_max(cells - 1.0)
    p, index = x - cell, cell.to(torch.int64)
    level = torch.arange(depth, device=keys.device).view(-1, 1, 1)
    node = index >> (depth - level)
    below = torch.exp2((depth - level).to(x.dtype))
    place = (x - node * below) / below
    height = torch.sqrt(span * torch.exp2(-level.to(x.dtype)))
    hats = torch.minimum(place, 1.0 - place) * height
    root = x * (math.sqrt(span) / cells)
    bridge = torch.sqrt((p * (1.0 - p)).clamp_min(0.0) * (span / cells))
    codes = torch.cat([torch.zeros_like(index)[None], (1 << level) + node, (1 << depth) + index[None]])
    weights = torch.cat([root[None], hats, bridge[None]])
    same = codes[:, 0] == codes[:, 1]
    gain = torch.where(same, weights[:, 1] - weights[:, 0], weights[:, 1])
    loss = torch.where(same, 0.0, -weights[:, 0])
    factors = torch.stack([loss, gain], dim=1).to(layout.dtype)
    # rows last: they are what a core takes many of at a time
    draw = compiled(normal_pair, layout.dtype, keys.shape, depth, keys.device) if fuse else normal_pair
    pair = draw(keys.T.contiguous(), codes.unsqueeze(-2), layout.dtype)
    parts = [_pairwise_sum((z * factors.unsqueeze(-2)).flatten(0, 1)) for z in pair]
    return torch.cat(parts)[: layout.channels].T


def _pairwise_sum(x: Tensor) -> Tensor:
    """Sum over the first axis in an order of its own, so that a row keeps its bits in any batch."""
    while len(x) > 1:
        half = (len(x) + 1) // 2
        rest = x[half:]
        x = torch.cat([x[: len(rest)] + rest, x[len(rest) : half]]) if len(rest) < half else x[:half] + rest
    return x[0]
