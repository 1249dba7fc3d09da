"""Fractional noise on a known grid: one Brownian path and the memory that it leaves behind, step by step."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, TimeGridError
from scidyn.solvers.brownian.fractional import MarkovFBM
from scidyn.solvers.brownian.hashing import mix64
from scidyn.solvers.brownian.increments import BrownianIncrements
from scidyn.solvers.brownian.noise import Noise

__all__ = ["FractionalIncrements"]

CHUNK = 64


class FractionalIncrements:
    """A path of :class:`MarkovFBM` on a fixed grid, to be passed to ``solve_sde`` as ``bm``.

    Over a step of length h the processes move by their exact law,
    ``Y_k(t + h) = e^(-γ_k h) Y_k(t) + I_k`` with ``I_k = ∫ e^(-γ_k (t + h - s)) dW_s``, whatever h: W and the
    space-time area H are those of :class:`BrownianIncrements` with the same seed, and what W and H leave open of
    the I_k is drawn from its conditional normal law. So the sum ``B̂`` has the right law at all times of the
    grid, and no explicit step limits the rates.

    Parameters
    ----------
    law : MarkovFBM
        Hurst index, rates and weights; gradients reach its ``omega``.
    grid : sequence of float or Tensor, shape (N + 1,)
        Strictly increasing times, from 0 to at most the horizon if counted from the first.
    shape : tuple of int
        Shape of one increment, (B, m) or (B, *state).
    seed : int
        Seed >= 0 of the whole path.
    levels : str
        "W" or "WH": whether steps know the area H of the Brownian motion.
    dtype : torch.dtype
        Floating dtype.
    device : torch.device or str
        Where the path lives.

    Raises
    ------
    scidyn.errors.TimeGridError
        If the grid does not increase or is longer than the horizon.
    scidyn.errors.OptionError
        If the seed is negative or the levels are others.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import FractionalIncrements, MarkovFBM
    >>> grid = torch.linspace(0, 1, 3, dtype=torch.float64)
    >>> noise = FractionalIncrements(MarkovFBM(0.7, horizon=1.0), grid, (20000, 1), seed=0, dtype=torch.float64)
    >>> path = noise.path()                                     # B̂ at the times of the grid
    >>> path.shape, round(path[-1].var().item(), 1)
    (torch.Size([3, 20000, 1]), 1.0)
    """

    area: str | None = None
    chunk = CHUNK

    def __init__(
        self,
        law: MarkovFBM,
        grid: Sequence[float] | Tensor,
        shape: Sequence[int],
        *,
        seed: int,
        levels: str = "W",
        dtype: torch.dtype = torch.float32,
        device: torch.device | str = "cpu",
    ) -> None:
        if levels not in {"W", "WH"}:
            raise OptionError(f"levels must be 'W' or 'WH' for fractional noise; got {levels!r}.")
        kind: dict[str, Any] = {"dtype": dtype, "device": device}
        self.motion = BrownianIncrements(grid, shape, seed=seed, levels="WH", **kind)
        self.grid, self.sizes, self.shape = self.motion.grid, self.motion.sizes, self.motion.shape
        span = self.grid[-1] - self.grid[0]
        if span > law.horizon * (1 + 1e-9):
            raise TimeGridError(
                f"the grid spans {span:g}, more than the horizon {law.horizon:g} of the fractional noise: "
                "make the MarkovFBM with horizon= at least the span of the solve."
            )
        self.law, self.levels = law, levels
        self.dtype, self.device, self.seed = dtype, torch.device(device), self.motion.seed
        count = len(law.gamma)
        other = mix64(self.seed + 1) >> 1
        # wide: the shapes of increments with one more axis, for the processes
        self._rest = BrownianIncrements(range(len(self.sizes) + 1), (*self.shape, count), seed=other, **kind)
        self._rates = law.gamma.to(self.device, dtype)
        self._parts: dict[float, tuple[Tensor, Tensor, Tensor]] = {}
        self._known: dict[int, Tensor] = {0: self._start(other)}

    def with_levels(self, levels: str) -> FractionalIncrements:
        """Give the same path with or without the areas."""
        return FractionalIncrements(
            self.law, self.grid, self.shape, seed=self.seed, levels=levels, dtype=self.dtype, device=self.device
        )

    def with_area(self, kind: str = "foster") -> FractionalIncrements:
        """Refuse: areas of fractional noise are not known."""
        raise OptionError("fractional noise has no Lévy areas: use method='heun', 'midpoint' or 'euler'.")

    def block(self, start: int, stop: int) -> Noise:
        """Noise of the steps ``start … stop - 1``: in W the increments of W, Y_1 … Y_K along a new last axis."""
        parts: list[Noise] = []
        while start < stop:
            chunk = start // CHUNK
            end = min(stop, (chunk + 1) * CHUNK, len(self.sizes))
            rows = slice(start - chunk * CHUNK, end - chunk * CHUNK)
            parts.append(Noise.of(None if x is None else x[rows] for x in self._chunk(chunk)))
            start = end
        return Noise.of(None if p[0] is None else torch.cat(p) for p in zip(*parts, strict=True))

    def path(self) -> Tensor:
        """``B̂`` at every time of the grid, shape (N + 1, *shape), starting from zero."""
        moves = self.block(0, len(self.sizes)).W[..., 1:]
        path = (moves @ self.law.omega.to(moves)).cumsum(0)
        return torch.cat([torch.zeros_like(path[:1]), path])

    def _start(self, seed: int) -> Tensor:
        """Processes at the first time: zero, or a draw of their stationary law."""
        rates = self.law.gamma
        if self.law.kind == "II":
            return torch.zeros(*self.shape, len(rates), dtype=self.dtype, device=self.device)
        values, vectors = torch.linalg.eigh(1.0 / (rates.unsqueeze(-1) + rates))
        root = (vectors * values.clamp_min(0.0).sqrt()).to(self.device, self.dtype)
        first = BrownianIncrements(
            [0.0, 1.0], (*self.shape, len(rates)), seed=seed ^ 1, dtype=self.dtype, device=self.device
        )
        return first.block(0, 1).W[0] @ root.T

    def _chunk(self, chunk: int) -> Noise:
        """Walk through a chunk from the processes at its start, which are kept for every chunk seen."""
        reached = max(c for c in self._known if c <= chunk)
        while reached < chunk:
            self._walk(reached)
            reached += 1
        return self._walk(chunk)

    def _walk(self, chunk: int) -> Noise:
        """Take the steps of a chunk."""
        start, stop = chunk * CHUNK, min((chunk + 1) * CHUNK, len(self.sizes))
        motion, rest = self.motion.block(start, stop), self._rest.block(start, stop).W
        known, y = torch.stack([motion.W, motion.h], dim=-1), self._known[chunk]
        moves = []
        for n, h in enumerate(self.sizes[start:stop]):
            decay, gain, spread = self._law_of_step(h)
            later = decay * y + known[n] @ gain.T + rest[n] @ spread.T
            moves.append(later - y)
            y = later
        self._known.setdefault(chunk + 1, y)
        W = torch.cat([motion.W.unsqueeze(-1), torch.stack(moves)], dim=-1)
        return Noise(W, motion.H if self.levels == "WH" else None)

    def _law_of_step(self, h: float) -> tuple[Tensor, Tensor, Tensor]:
        """Decay of the processes, weights of (W, H) in the I_k, and a root of the covariance that is left."""
        key = float(f"{h:.12e}")
        found = self._parts.get(key)
        if found is None:
            decay, gain, spread = step_law(self.law.gamma, key)
            found = (decay.to(self._rates), gain.to(self._rates), spread.to(self._rates))
            self._parts[key] = found
        return found


def step_law(rates: Tensor, h: float) -> tuple[Tensor, Tensor, Tensor]:
    """Law of ``I_k = ∫_0^h e^(-γ_k (h - s)) dW_s`` given W and H of the step, in double precision.

    Returns
    -------
    tuple of Tensor
        ``e^(-γ h)`` (K,), the weights of W and H (K, 2), and a root (K, K) of the conditional covariance.
    """
    x = rates * h
    first = -torch.expm1(-x) / x  # φ_1(-x)
    # ∫_0^1 (1/2 - s) e^(-x (1 - s)) ds; by its series for small x, where the closed form cancels
    closed = (first * (1.0 + 0.5 * x) - 1.0) / x
    small = x < 0.1
    y = torch.where(small, x, 0.0)
    series = sum((-y) ** k * (k / (2.0 * (k + 1) * (k + 2) * math.factorial(k))) for k in range(1, 13))
    tilt = torch.where(small, series, closed)
    gain = torch.stack([first, 12.0 * tilt], dim=-1)
    total = x.unsqueeze(-1) + x
    whole = h * -torch.expm1(-total) / total
    left = whole - h * (first.unsqueeze(-1) * first + 12.0 * tilt.unsqueeze(-1) * tilt)
    values, vectors = torch.linalg.eigh(left)
    return torch.exp(-x), gain, vectors * values.clamp_min(0.0).sqrt()
