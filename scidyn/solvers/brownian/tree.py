"""A Brownian path as a function of a seed: exact at any times, in any order, for any part of a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.brownian.bridge import left_part, remainder, split_coefficients
from scidyn.solvers.brownian.descent import SNAP, Layout, node_normals, root_of, row_increments
from scidyn.solvers.brownian.hashing import lane_keys
from scidyn.solvers.brownian.hats import Hats, row_hats
from scidyn.solvers.brownian.increments import correlation_factor
from scidyn.solvers.brownian.noise import LEVELS, Noise, join

__all__ = ["BrownianTree"]


class BrownianTree:
    """A Brownian motion on ``[t0, t1]`` that holds no state beyond its seed.

    The interval is halved ``L = ⌈log2((t1 - t0) / tol)⌉`` times; the normals of a node are a hash
    of (seed, sample, channel, node). So a sample sees the same path whatever the batch, the
    order of queries, the steps and the device. Nodes used last are remembered, which changes
    the cost of sequential queries and never their values. Between two times closer than
    ``tol`` in one cell the path is the conditional draw of a single bridge.

    Parameters
    ----------
    t0, t1 : float
        Span of the path.
    shape : tuple of int
        Shape of one increment, (B, m) or (B, *state).
    seed : int
        Seed >= 0.
    tol : float, optional
        Resolution in time; default ``(t1 - t0) / 1024``.
    levels : str
        "W" for increments, "WH" with space-time areas, "WHK" with space-time-time areas as well.
        Paths of different ``levels`` differ.
    dtype : torch.dtype
        Floating dtype.
    device : torch.device or str
        Where the path lives.
    samples : Tensor of int, shape (B,), optional
        Identity of each row; default ``0 … B - 1``. A row's path depends on its identity alone.
    antithetic : bool
        If True the second half of the batch sees the negative of the first half's path.
    correlation : array_like, shape (m, m), optional
        Correlation of the channels.
    compile : bool
        Compile queries at a time for each row, if ``levels="W"``, with ``torch.compile``: some ten seconds once,
        then several times faster.

    Raises
    ------
    scidyn.errors.OptionError
        If the seed or ``tol`` is out of range or ``levels`` is unknown.
    scidyn.errors.TimeGridError
        If ``t1 <= t0``, or a query leaves the span.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import BrownianTree
    >>> tree = BrownianTree(0.0, 1.0, (2, 3), seed=0, dtype=torch.float64)
    >>> whole = tree.increment(0.2, 0.9).W
    >>> torch.allclose(whole, tree.increment(0.2, 0.5).W + tree.increment(0.5, 0.9).W)
    True
    >>> alone = BrownianTree(0.0, 1.0, (1, 3), seed=0, dtype=torch.float64, samples=torch.tensor([1]))
    >>> torch.equal(alone.increment(0.2, 0.9).W[0], whole[1])
    True

    References
    ----------
    P. Kidger (2021), On neural differential equations, section 5.5.
    J. Foster (2020), Numerical approximations for stochastic differential equations, theorem 6.1.4.
    """

    def __init__(
        self,
        t0: float,
        t1: float,
        shape: Sequence[int],
        *,
        seed: int,
        tol: float | None = None,
        levels: str = "WH",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
        samples: Tensor | None = None,
        antithetic: bool = False,
        correlation: Any = None,
        compile: bool = False,
    ) -> None:
        self.t0, self.t1 = number("t0", t0), number("t1", t1)
        if self.t1 <= self.t0:
            raise TimeGridError(f"t1 must be after t0; got t0={self.t0:g} and t1={self.t1:g}.")
        self.shape = tuple(shape)
        self.levels = choice("levels", levels, LEVELS)
        self.dtype, self.device = dtype, torch.device(device)
        self.seed = integer("seed", seed, at_least=0)
        span = self.t1 - self.t0
        resolution = span / 1024 if tol is None else number("tol", tol, above=0.0, at_most=span)
        self.depth = min(max(0, math.ceil(math.log2(span / resolution) - 1e-9)), 52)
        self.channels = math.prod(self.shape[1:])
        rows = self.shape[0] // 2 if antithetic else self.shape[0]
        if antithetic and self.shape[0] % 2:
            raise OptionError(f"antithetic pairs need an even batch; the shape is {self.shape}.")
        ids = torch.arange(rows, device=self.device) if samples is None else samples.to(self.device)
        if ids.shape != (rows,):
            raise ShapeError(f"samples must have shape ({rows},); got {tuple(ids.shape)}.")
        self.antithetic = antithetic
        self.correlation = correlation_factor(correlation, self.shape[-1], dtype, self.device)
        # one level needs one normal a channel: two channels share a hash
        lanes = (self.channels + 1) // 2 if levels == "W" else self.channels
        self._keys = lane_keys(self.seed, ids, lanes)
        self._layout = Layout(span, self.depth, len(self.levels), self.channels, dtype)
        self._fuse = compile
        self._hats = Hats(self._layout, self._keys) if levels == "W" else None
        self._half = split_coefficients(0.5, len(self.levels))
        self._nodes: dict[int, Noise] = {}
        self._starts: dict[tuple[int, float], Noise] = {}

    def increment(self, s: float | Tensor, t: float | Tensor) -> Noise:
        """Noise over ``[s, t]``.

        Parameters
        ----------
        s, t : float, or Tensor of shape (B,)
            Ends of the step, for all rows or for each; ``s <= t``.

        Returns
        -------
        Noise
            Tensors of the tree's shape.

        Raises
        ------
        scidyn.errors.TimeGridError
            If floats leave the span or ``s > t``; tensors are not checked.
        """
        if isinstance(s, Tensor) or isinstance(t, Tensor):
            return self._finish(self._per_sample(s, t))
        if not self.t0 - 1e-9 <= s <= t <= self.t1 + 1e-9 * max(1.0, abs(self.t1)):
            raise TimeGridError(f"the path covers {self.t0:g} to {self.t1:g}; asked for the step from {s:g} to {t:g}.")
        return self._finish(self._shared(s, t))

    def evaluate(self, t: float | Tensor) -> Tensor:
        """``W(t) - W(t0)``, for a time or a tensor (B,) of times."""
        start = torch.full_like(t, self.t0) if isinstance(t, Tensor) else self.t0
        return self.increment(start, t).W

    def _finish(self, noise: Noise) -> Noise:
        """Bring rows (B, channels) into the user's shape."""

        def shaped(x: Tensor) -> Tensor:
            x = torch.cat([x, -x]) if self.antithetic else x
            x = x.reshape(self.shape)
            return x if self.correlation is None else x @ self.correlation.T

        return noise.each(shaped)

    # one time for all rows: a walk over nodes in Python, values remembered

    def _shared(self, s: float, t: float) -> Noise:
        """Join the nodes and the parts of cells that make up ``[s, t]``."""
        cells = 1 << self.depth
        first, from_ = self._locate(s, cells)
        last, to = self._locate(t, cells)
        if self._hats is not None:
            return Noise(self._hats.increment((first, from_), (last, to)))
        if (first, from_) == (last, to):
            return self._node(1).each(torch.zeros_like)
        if first == last or (first + 1 == last and to == 0.0 and from_ > 0.0):
            return self._inside(first, from_, 1.0 if to == 0.0 else to)
        width = (self.t1 - self.t0) / cells
        parts: list[tuple[Noise, float]] = []
        if from_ > 0.0:
            parts.append((self._inside(first, from_, 1.0), (1.0 - from_) * width))
            first += 1
        while first < last:  # the widest node that starts here and does not reach too far
            level = min((first & -first).bit_length() - 1 if first else self.depth, (last - first).bit_length() - 1)
            parts.append((self._node((cells + first) >> level), width * (1 << level)))
            first += 1 << level
        if to > 0.0:
            parts.append((self._inside(last, 0.0, to), to * width))
        total, length = parts[0]
        if len(parts) == 1:  # what is remembered is not handed out
            return total.each(torch.clone)
        for noise, h in parts[1:]:
            total, length = join(total, noise, length, h), length + h
        return total

    def _locate(self, t: float, cells: int) -> tuple[int, float]:
        """Cell and position in it, snapped to the cell's edge where it coincides up to rounding."""
        x = (t - self.t0) / (self.t1 - self.t0) * cells
        near = round(x)
        if abs(x - near) < SNAP * max(1.0, abs(x)):
            return min(max(near, 0), cells), 0.0
        cell = math.floor(x)
        return cell, x - cell

    def _inside(self, cell: int, s: float, t: float) -> Noise:
        """Noise over the part from ``s`` to ``t``, in units of the cell, of one cell."""
        upto = self._node((1 << self.depth) + cell) if t == 1.0 else self._start(cell, t)
        return upto if s == 0.0 else remainder(upto, self._start(cell, s), s / t)

    def _start(self, cell: int, p: float) -> Noise:
        """Noise over the first part, of relative length ``p``, of one cell; the last few are remembered."""
        known = self._starts
        found = known.get((cell, p))
        if found is None:
            code = (1 << self.depth) + cell
            scale = math.sqrt((self.t1 - self.t0) / (1 << self.depth))
            split = split_coefficients(p, len(self.levels))
            found = left_part(self._node(code), split, scale, node_normals(self._layout, self._keys, code))
            if len(known) >= 4:
                known.pop(next(iter(known)))
            known[cell, p] = found
        return found

    def _node(self, code: int) -> Noise:
        """Noise over the node with heap number ``code``; 1 is the root, 2 and 3 its halves."""
        known = self._nodes
        found = known.get(code)
        if found is not None:
            return found
        path = []
        ancestor = code
        while ancestor > 1 and ancestor not in known:
            ancestor >>= 1
            path.append(ancestor)
        if ancestor == 1 and 1 not in known:
            known[1] = root_of(self._layout, self._keys)
        path.reverse()
        many = len(path) > 1
        if many:
            counters = torch.tensor(path, dtype=torch.int64, device="cpu").to(self.device).view(-1, 1, 1)
            stacked = [n.unbind(0) for n in node_normals(self._layout, self._keys, counters)]
        for i, parent in enumerate(path):
            normals = [n[i] for n in stacked] if many else node_normals(self._layout, self._keys, parent)
            whole = known[parent]
            scale = math.sqrt((self.t1 - self.t0) / (1 << (parent.bit_length() - 1)))
            left = left_part(whole, self._half, scale, normals)
            known[2 * parent], known[2 * parent + 1] = left, remainder(whole, left, 0.5)
        result = known[code]
        self._forget()
        return result

    def _forget(self) -> None:
        """Drop the nodes that were made first, but never the root."""
        limit = 8 * self.depth + 32
        if len(self._nodes) > 2 * limit:
            keep = list(self._nodes.items())[-limit:]
            self._nodes = {1: self._nodes[1], **dict(keep)}

    # one time for each row: all rows descend together, in double precision

    def _per_sample(self, s: float | Tensor, t: float | Tensor) -> Noise:
        """Difference of the paths from t0 to ``t`` and to ``s``; sums are in double precision."""
        wide = torch.float32 if self.device.type == "mps" else torch.float64
        rows = self._keys.shape[0]

        def column(x: float | Tensor) -> Tensor:
            times = torch.as_tensor(x, dtype=wide, device=self.device) - self.t0
            return times.expand(self.shape[0])[:rows]

        if self._hats is not None:
            return Noise(row_hats(self._layout, self._keys, column(s), column(t), self._fuse))
        return row_increments(self._layout, self._keys, column(s).unsqueeze(-1), column(t).unsqueeze(-1))
