"""The grid of a solve: step ends, where results are wanted, stage times as tensors."""

from __future__ import annotations

import bisect
import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Plan", "nodes_between"]


def nodes_between(times: Sequence[float], dt: float | None, extra: Sequence[float] = ()) -> list[float]:
    """Step ends: every time and every extra time is one; the rest at most ``dt`` apart."""
    stops = sorted({*times, *(x for x in extra if times[0] < x < times[-1])})
    nodes = [stops[0]]
    for a, b in itertools.pairwise(stops):
        count = 1 if dt is None else max(1, math.ceil((b - a) / dt * (1 - 1e-9)))
        nodes += [a + (b - a) * (i / count) for i in range(1, count)] + [b]
    return nodes


@dataclass(frozen=True)
class Plan:
    """A fixed grid.

    Attributes
    ----------
    nodes : list of float, length N + 1
        Ends of the steps.
    wanted : list of int
        For each time asked for, the node where it lies.
    jumps : frozenset of int
        Nodes at which drift or diffusion are discontinuous.
    """

    nodes: list[float]
    wanted: list[int]
    jumps: frozenset[int] = frozenset()

    @classmethod
    def on(cls, nodes: list[float], times: Sequence[float], jumps: Sequence[float] = ()) -> Plan:
        """Find the wanted times and the jumps among the nodes."""
        scale = max(abs(nodes[0]), abs(nodes[-1]), 1e-300)

        def at(t: float) -> int:
            i = bisect.bisect_left(nodes, t - 1e-12 * scale)
            return i if i < len(nodes) and abs(nodes[i] - t) <= 1e-9 * scale else -1

        return cls(nodes, [at(t) for t in times], frozenset(at(t) for t in jumps) - {-1})

    def __len__(self) -> int:
        return len(self.nodes) - 1

    def size(self, n: int) -> float:
        """Length of step n."""
        return self.nodes[n + 1] - self.nodes[n]

    def stage_times(self, start: int, stop: int, relative: tuple[float, ...], like: Tensor) -> list[tuple[Tensor, ...]]:
        """Stage times of the steps as 0-d tensors in the state's real dtype."""
        dtype = like.real.dtype
        edges = torch.tensor(self.nodes[start : stop + 1], dtype=torch.float64, device="cpu")
        columns = []
        for c in relative:
            column = (edges[:-1] if c == 0.0 else edges[:-1] + c * edges.diff()).to(dtype)
            if c == 1.0:
                column = edges[1:].to(dtype, copy=True)
                for n in self.jumps:
                    if start < n <= stop:  # the left limit: the step that ends at a jump must not see past it
                        below = torch.full_like(column[0], -math.inf)
                        column[n - 1 - start] = torch.nextafter(column[n - 1 - start], below)
            columns.append(column.to(like.device).unbind(0))
        return list(zip(*columns, strict=True))

    def sizes(self, start: int, stop: int, like: Tensor) -> Tensor:
        """Step sizes (n, 1, …, 1) to broadcast against a block of noise like ``like``."""
        edges = torch.tensor(self.nodes[start : stop + 1], dtype=torch.float64, device="cpu").diff()
        return edges.to(dtype=like.dtype, device=like.device).view(-1, *([1] * (like.ndim - 1)))
