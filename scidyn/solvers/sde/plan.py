"""The grid of a solve with known steps, and the blocks of noise on it."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from scidyn._check.values import number
from scidyn.errors import TimeGridError
from scidyn.solvers.brownian.noise import Noise
from scidyn.solvers.sde.compiling import Choice

__all__ = ["Plan", "Source", "make_grid", "make_plan"]


SLACK = 1e-5  # times given in single precision must not cost one more step
BLOCK = 16  # steps drawn at once by a source that names no number


class Source(Protocol):
    """A Brownian path on a known grid."""

    grid: list[float]

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``, stacked along a new first axis."""


def make_grid(times: Sequence[float], dt: float | None, jumps: Sequence[float]) -> list[float]:
    """Union of the times to report and the jump times, each gap cut into equal steps of at most ``dt``."""
    first, last = times[0], times[-1]
    nodes = sorted({*times, *(number("jump_times", j) for j in jumps if first < j < last)})
    if dt is None:
        return nodes
    step = number("dt", dt, above=0.0)
    grid = [first]
    for a, b in itertools.pairwise(nodes):
        n = max(1, math.ceil((b - a) / step * (1.0 - SLACK)))
        grid.extend(a + (b - a) * i / n for i in range(1, n))
        grid.append(b)
    return grid


class Plan(NamedTuple):
    """Steps to take: their starts, their lengths, the noise, and which ends to report.

    Attributes
    ----------
    starts : tuple of Tensor
        Scalar times at which the steps start, and the last time.
    sizes : list of float
        Lengths.
    source : Source
        Noise of the steps.
    report : dict of int to int
        Number of steps taken → place in the output.
    stamps : Tensor
        The starts as one tensor.
    compiled : Choice or None
        Some steps as one function.
    """

    starts: tuple[Tensor, ...]
    sizes: list[float]
    source: Source
    report: dict[int, int]
    stamps: Tensor
    compiled: Choice | None = None

    def noises(self, start: int, stop: int) -> Iterator[Noise]:
        """Noise of each step of a range, drawn in blocks."""
        chunk = getattr(self.source, "chunk", BLOCK)
        while start < stop:
            end = min(stop, (start // chunk + 1) * chunk)
            block = self.source.block(start, end)
            parts = [[None] * (end - start) if x is None else x.unbind(0) for x in block]
            yield from map(Noise, *parts)
            start = end


def make_plan(times: Sequence[float], source: Source, like: Tensor) -> Plan:
    """Find the times to report on the noise's grid."""
    grid = source.grid
    place = {t: n for n, t in enumerate(grid)}
    report: dict[int, int] = {}
    for i, t in enumerate(times):
        n = place.get(t)
        if n is None:  # a grid made by other arithmetic
            n = min(range(len(grid)), key=lambda k: abs(grid[k] - t))
            if abs(grid[n] - t) > 1e-9 * max(1.0, abs(t), abs(grid[-1] - grid[0])):
                raise TimeGridError(
                    f"t[{i}]={t:g} is not on the grid of the Brownian path, whose nearest time is {grid[n]:g}: "
                    "put the times to report on the path's grid."
                )
        report[n] = i
    if min(report) != 0:
        raise TimeGridError(f"the Brownian path starts at {grid[0]:g}, the solve at {times[0]:g}: they must agree.")
    last = max(report)
    stamps = torch.tensor(grid[: last + 1], dtype=torch.float64, device="cpu").to(like.real.dtype).to(like.device)
    sizes = [b - a for a, b in itertools.pairwise(grid[: last + 1])]
    return Plan(stamps.unbind(0), sizes, source, report, stamps)
