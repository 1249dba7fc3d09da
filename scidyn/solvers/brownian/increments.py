"""Brownian increments on a known grid as a function of a seed."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.brownian.hashing import lane_keys, mix64, normal_steps
from scidyn.solvers.brownian.levy import KINDS, areas_from_normals
from scidyn.solvers.brownian.noise import LEVELS, Noise, join

__all__ = ["BrownianIncrements", "correlation_factor"]

KEPT = 2
# hashes drawn at once: what fits into the cache of a core
LANES, PAIRS = 65536, 512
VARIANCE = (1.0, 1.0 / 12.0, 1.0 / 720.0)
# paths of increments and of trees with one seed have nothing in common
STREAM, AREAS = 0x6A09E667F3BCC908, 0xBB67AE8584CAA73B
LEVEL_BITS = 56


def correlation_factor(correlation: Any, channels: int, dtype: torch.dtype, device: torch.device) -> Tensor | None:
    """Lower factor L of a correlation matrix ``L Lᵀ`` of the channels, or None."""
    if correlation is None:
        return None
    matrix = torch.as_tensor(correlation, dtype=torch.float64, device="cpu")
    if matrix.shape != (channels, channels):
        raise ShapeError(f"correlation must have shape ({channels}, {channels}); got {tuple(matrix.shape)}.")
    factor, info = torch.linalg.cholesky_ex(matrix)
    symmetric = torch.allclose(matrix, matrix.T, atol=1e-8)
    unit = torch.allclose(matrix.diagonal(), torch.ones_like(matrix[0]))
    if int(info) or not symmetric or not unit:
        raise OptionError("correlation must be symmetric and positive definite with ones on its diagonal.")
    return factor.to(device=device, dtype=dtype)


class Hashes(NamedTuple):
    """What the increments of some steps are a function of: keys of the lanes, and counters of pairs of steps.

    Attributes
    ----------
    keys : Tensor of int64, shape (B, lanes)
        Keys.
    counters : Tensor of int64, shape (levels, steps / 2)
        One for two steps.
    shape : tuple of int
        Shape of one increment.
    """

    keys: Tensor
    counters: Tensor
    shape: tuple[int, ...]


class BrownianIncrements:
    """Independent increments of a Brownian motion on a fixed grid of times.

    The normals of a step are a hash of (seed, sample, channel, number of the step). So any part
    of the path can be drawn again, in any order, nothing needs to be stored, and a sample sees
    the same path in any batch and, up to rounding, on any device. This is the cheapest source of
    noise; use :class:`BrownianTree` when the steps are not known beforehand.

    Parameters
    ----------
    grid : sequence of float or Tensor, shape (N + 1,)
        Strictly increasing times.
    shape : tuple of int
        Shape of one increment, (B, m) or (B, *state).
    seed : int
        Seed >= 0 of the whole path.
    levels : str
        "W" for increments, "WH" with space-time areas, "WHK" with space-time-time areas as well.
        W does not depend on this choice.
    dtype : torch.dtype
        Floating dtype.
    device : torch.device or str
        Where the increments live.
    antithetic : bool
        If True the second half of the batch sees the negative of the first half's path.
    correlation : array_like, shape (m, m), optional
        Correlation of the channels (last axis).
    same_on_every_device : bool
        Draw on the CPU and copy, so that every device sees the same numbers to the last bit (devices
        round logarithms and cosines differently); costs a transfer per chunk.
    samples : Tensor of int, shape (B,), optional
        Identity of each row; default ``0 … B - 1``. A row's path depends on its identity alone.

    Raises
    ------
    scidyn.errors.OptionError
        If the seed is negative, ``levels`` is unknown, or the batch is odd and antithetic.
    scidyn.errors.TimeGridError
        If the grid does not increase.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import BrownianIncrements
    >>> noise = BrownianIncrements([0.0, 0.5, 1.0], (4, 2), seed=0)
    >>> noise.path().shape                       # W at the three times
    torch.Size([3, 4, 2])
    >>> coarse = noise.coarsen(2)                # the same path on the grid 0, 1
    >>> torch.equal(coarse.path()[-1], noise.path()[-1])
    True
    """

    def __init__(
        self,
        grid: Sequence[float] | Tensor,
        shape: Sequence[int],
        *,
        seed: int,
        levels: str = "W",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        antithetic: bool = False,
        correlation: Any = None,
        same_on_every_device: bool = False,
        samples: Tensor | None = None,
    ) -> None:
        nodes = grid.tolist() if isinstance(grid, Tensor) else [float(t) for t in grid]
        sizes = [b - a for a, b in itertools.pairwise(nodes)]
        if not sizes or not all(h > 0 for h in sizes):
            raise TimeGridError("grid must hold at least two times that increase strictly.")
        self.grid: list[float] = nodes
        self.sizes = sizes
        self.uniform = max(sizes) - min(sizes) <= 1e-9 * max(sizes)
        self.shape = tuple(shape)
        self.seed = integer("seed", seed, at_least=0)
        self.levels = choice("levels", levels, LEVELS)
        self.dtype, self.device = dtype, torch.device(device)
        if antithetic and self.shape[0] % 2:
            raise OptionError(f"antithetic pairs need an even batch; the shape is {self.shape}.")
        self.antithetic = antithetic
        self.correlation = correlation_factor(correlation, self.shape[-1], dtype, self.device)
        self._source = torch.device("cpu") if same_on_every_device else self.device
        rows = self.shape[0] // 2 if antithetic else self.shape[0]
        ids = torch.arange(rows, device=self._source) if samples is None else samples.to(self._source)
        if ids.shape != (rows,):
            raise ShapeError(f"samples must have shape ({rows},); got {tuple(ids.shape)}.")
        self._ids = ids
        self._keys = lane_keys(mix64(self.seed ^ STREAM), ids, math.prod(self.shape[1:]))
        pairs = min(PAIRS, max(1, LANES // max(1, self._keys.numel())))
        self.chunk = 2 << (pairs.bit_length() - 1)
        self.area: str | None = None
        self._kept: dict[int, Noise] = {}

    def with_levels(self, levels: str) -> BrownianIncrements:
        """Give the same path with more or fewer time integrals."""
        twin = object.__new__(BrownianIncrements)
        twin.__dict__.update(self.__dict__)
        twin.levels, twin._kept = choice("levels", levels, LEVELS), {}
        return twin

    def with_area(self, kind: str = "foster") -> BrownianIncrements:
        """Give the same path with Lévy areas, of the law of :func:`levy_area`."""
        twin = self.with_levels("WHK" if self.levels == "WHK" else "WH")
        twin.area = choice("kind", kind, KINDS)
        return twin

    def __len__(self) -> int:
        return len(self.sizes)

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``, stacked along a new first axis."""
        parts: list[Noise] = []
        while start < stop:
            c = start // self.chunk
            end = min(stop, (c + 1) * self.chunk, len(self))
            low, high = start - c * self.chunk, end - c * self.chunk
            noise = self._chunk(c)
            whole = low == 0 and high == noise.W.shape[0]
            parts.append(noise if whole else _rows(noise, low, high))
            start = end
        if len(parts) == 1:
            return parts[0]
        return Noise.of(None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True))

    def _chunk(self, c: int) -> Noise:
        """Draw chunk ``c``, or take it from those drawn last."""
        known = self._kept.get(c)
        if known is not None:
            return known
        noise = Noise(*(self._draw(c, level) for level in range(len(self.levels))))
        if self.area is not None:
            noise = noise._replace(area=self._areas(c, noise))
        if len(self._kept) >= KEPT:
            self._kept.pop(next(iter(self._kept)))
        self._kept[c] = noise
        return noise

    def _draw(self, c: int, level: int) -> Tensor:
        """Increments (level 0) or integrals of chunk ``c``, scaled to their variances."""
        sizes = self.sizes[c * self.chunk : (c + 1) * self.chunk]
        z = self._normals(self._keys, c, level, VARIANCE[level] * self.sizes[0] if self.uniform else 1.0)
        if not self.uniform:
            h = torch.tensor(sizes, dtype=torch.float64, device="cpu").mul_(VARIANCE[level]).sqrt_()
            z *= h.to(device=self.device, dtype=self.dtype).view(-1, 1, 1)
        if self.antithetic:
            z = torch.cat([z, -z], dim=1)
        z = z.view(len(sizes), *self.shape)
        return z if self.correlation is None else z @ self.correlation.T

    def _normals(self, keys: Tensor, c: int, level: int, variance: float) -> Tensor:
        """Normals of chunk ``c``, shape (steps, rows, lanes)."""
        count = min(self.chunk, len(self) - c * self.chunk)
        pairs = (count + 1) // 2
        first = c * (self.chunk // 2) + (level << LEVEL_BITS)
        counters = torch.arange(first, first + pairs, device=self._source)
        dtype = torch.float64 if self.dtype is torch.float64 else torch.float32
        z = normal_steps(keys, counters, dtype, variance)
        return z[:count].to(device=self.device, dtype=self.dtype, non_blocking=True)

    def hashes(self, start: int, stop: int) -> Hashes | None:
        """What the noise of a range of whole pairs of steps is drawn from, if nothing else goes into it."""
        mixed = self.antithetic or self.correlation is not None or self.area is not None
        whole = start % 2 == 0 and stop % 2 == 0 and self._source == self.device
        if mixed or not whole or self.dtype not in {torch.float32, torch.float64}:
            return None
        pairs = torch.arange(start // 2, stop // 2, device=self.device)
        levels = torch.arange(len(self.levels), device=self.device) << LEVEL_BITS
        return Hashes(self._keys, levels.unsqueeze(-1) + pairs, self.shape)

    def _areas(self, c: int, noise: Noise) -> Tensor:
        """Lévy areas of chunk ``c``."""
        m = self.shape[-1]
        keys = lane_keys(mix64(self.seed ^ AREAS), self._ids, self._keys.shape[-1] * m)
        z = self._normals(keys, c, 0, 1.0)
        z = torch.cat([z, z], dim=1) if self.antithetic else z
        sizes = self.sizes[c * self.chunk : (c + 1) * self.chunk]
        h = torch.tensor(sizes, dtype=self.dtype, device=self.device).view(-1, *([1] * (len(self.shape) - 1)))
        return areas_from_normals(noise, h, z.view(len(sizes), *self.shape, m), str(self.area))

    def path(self) -> Tensor:
        """W at every time of the grid, shape (N + 1, *shape), starting from zero."""
        W = self.block(0, len(self)).W.cumsum(0)
        return torch.cat([torch.zeros_like(W[:1]), W])

    def coarsen(self, factor: int) -> CoarseIncrements:
        """Give the same path on every ``factor``-th time of the grid."""
        return CoarseIncrements(self, integer("factor", factor, at_least=1))


def _rows(noise: Noise, low: int, high: int) -> Noise:
    """Steps ``low … high - 1`` of a stacked noise."""
    return noise.each(lambda x: x[low:high])


class CoarseIncrements:
    """A path seen on every ``factor``-th time of a finer grid; made by ``coarsen``."""

    def __init__(self, fine: BrownianIncrements, factor: int) -> None:
        if len(fine) % factor:
            raise OptionError(f"factor must divide the {len(fine)} steps of the grid; got {factor}.")
        self.fine, self.factor = fine, factor
        self.grid = fine.grid[::factor]
        self.sizes = [b - a for a, b in itertools.pairwise(self.grid)]
        self.shape, self.dtype, self.device = fine.shape, fine.dtype, fine.device
        self.levels, self.area = fine.levels, fine.area

    def __len__(self) -> int:
        return len(self.sizes)

    def with_levels(self, levels: str) -> CoarseIncrements:
        """Give the same path with more or fewer time integrals."""
        return CoarseIncrements(self.fine.with_levels(levels), self.factor)

    def with_area(self, kind: str = "foster") -> CoarseIncrements:
        """Give the same path with Lévy areas."""
        return CoarseIncrements(self.fine.with_area(kind), self.factor)

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``, stacked along a new first axis."""
        k = self.factor
        fine = self.fine.block(start * k, stop * k)
        sizes = torch.tensor(self.fine.sizes[start * k : stop * k], dtype=self.dtype, device=self.device)
        sizes = sizes.view(-1, k, *([1] * len(self.shape)))
        steps = fine.each(lambda x: x.unflatten(0, (stop - start, k)))
        joined = steps.each(lambda x: x[:, 0])
        length = sizes[:, 0]
        for i in range(1, k):
            joined = join(joined, Noise.of(None if x is None else x[:, i] for x in steps), length, sizes[:, i])
            length = length + sizes[:, i]
        return joined

    def path(self) -> Tensor:
        """W at every time of the coarse grid, shape (N + 1, *shape)."""
        return self.fine.path()[:: self.factor]
