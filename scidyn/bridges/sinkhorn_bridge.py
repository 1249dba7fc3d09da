"""The Schrödinger bridge of a Brownian reference without training: its drift from the Sinkhorn potentials."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.bridges.chains import Chains, couple
from scidyn.bridges.coupling import Coupling
from scidyn.bridges.flow_matching import automatic_sigma
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import NotFittedError, OptionError, ShapeError

__all__ = ["SinkhornBridge"]

CELLS = 4_000_000


class SinkhornBridge:
    """Bridge through snapshots with the drift in closed form.

    Inside the interval that ends at ``t_1``, with potentials ``g_j`` of the entropic plan, ::

        b(t, x) = (Σ_j w_j y_j − x) / (t_1 − t),   w_j ∝ b_j exp(g_j − |x − y_j|² / (2 σ² (t_1 − t))).

    It is exact for the snapshots as they are and the right comparison for every trained method.

    Parameters
    ----------
    sigma : float or "auto"
        Diffusion in state/√time; "auto" as in :class:`FlowMatching`.
    tau : float
        In (0, 1]; below 1 cells may grow or die at a price, and :meth:`growth` says how fast they did.
    seed : int
        Seed of everything random.

    Raises
    ------
    scidyn.errors.OptionError
        If ``sigma`` or ``tau`` is out of range.

    Examples
    --------
    >>> import numpy as np, torch
    >>> from scidyn.bridges import SinkhornBridge
    >>> bridge = SinkhornBridge(0.5).fit([[[0.0], [2.0]], [[1.0], [3.0]]], [0.0, 1.0])
    >>> bridge.drift(0.5, torch.tensor([[1.0]])).shape
    torch.Size([1, 1])

    References
    ----------
    A.-A. Pooladian, J. Niles-Weed, Plug-in estimation of Schrödinger bridges, 2024.
    """

    def __init__(self, sigma: float | str = "auto", *, tau: float = 1.0, seed: int = 0) -> None:
        self.sigma = sigma if sigma == "auto" else number("sigma", sigma, above=0.0)
        self.tau = number("tau", tau, above=0.0, at_most=1.0)
        self.seed = seed

    def fit(
        self,
        snapshots: Any,
        times: Any = None,
        *,
        growth: Any = None,
        progress: Callable[[float], None] | None = None,
    ) -> SinkhornBridge:
        """Couple neighbouring snapshots.

        Parameters
        ----------
        snapshots : Snapshots, xarray.Dataset or sequence of array_like of shape (cell, feature)
            See :meth:`Snapshots.of`.
        times : array_like, shape (time,), optional
            Needed with a sequence of clouds.
        growth : sequence of array_like of shape (cell,), optional
            Net growth rates known beforehand, 1/time, per snapshot.
        progress : callable, optional
            Told the finished fraction of the intervals.
        """
        self.snapshots_ = Snapshots.of(snapshots, times)
        generator = torch.Generator().manual_seed(self.seed)
        self.sigma_ = automatic_sigma(self.snapshots_, generator) if self.sigma == "auto" else float(self.sigma)
        rates = None if growth is None else [torch.as_tensor(np.asarray(g, dtype=float)) for g in growth]
        if rates is not None and [len(g) for g in rates] != list(self.snapshots_.sizes):
            raise ShapeError(f"growth has {[len(g) for g in rates]} rates; there are {self.snapshots_.sizes} cells.")
        self.chains_: Chains = couple(
            self.snapshots_,
            "sinkhorn",
            sigma=self.sigma_,
            generator=generator,
            growth=rates,
            tau=self.tau,
            progress=progress,
        )
        return self

    def _interval(self, t: float) -> tuple[int, Coupling]:
        if not hasattr(self, "chains_"):
            raise NotFittedError("SinkhornBridge was used before fit(snapshots, times).")
        times = self.snapshots_.times.numpy()
        number("t", t, at_least=float(times[0]), at_most=float(times[-1]))
        k = int(np.clip(np.searchsorted(times, t, side="right") - 1, 0, len(times) - 2))
        return k, self.chains_.links[k]  # type: ignore[return-value]

    def growth(self, k: int, mass: float | None = None) -> Tensor:
        """Net growth rate of every cell of snapshot ``k`` over the interval that starts there.

        ``log(descendants / own weight) / Δ``: with ``mass``, the ratio of the population's sizes after and
        before, absolute; without it, relative to the population.

        Parameters
        ----------
        k : int
            Position of a snapshot, not the last.
        mass : float, optional
            Size of the population at the end of the interval over that at its start.

        Returns
        -------
        Tensor, shape (cell,)
        """
        link, span = self.link(k), float(self.snapshots_.times.diff()[k])
        change = (link.plan.row_sums() / self.snapshots_.weights[k]).log()
        return (change + math.log(1.0 if mass is None else number("mass", mass, above=0.0))) / span

    def coupling(self, k: int) -> Tensor:
        """Joint weights of the cells of snapshots ``k`` and ``k + 1``, shape ``(n, m)``.

        Parameters
        ----------
        k : int
            Position of a snapshot, not the last.
        """
        return self.link(k).plan.to_dense()

    def link(self, k: int) -> Coupling:
        """The coupling of snapshots ``k`` and ``k + 1``, evaluated on request: ``link(k).plan.topk(50)``.

        Parameters
        ----------
        k : int
            Position of a snapshot, not the last.
        """
        if not hasattr(self, "chains_"):
            raise NotFittedError("SinkhornBridge was used before fit(snapshots, times).")
        if not 0 <= integer("k", k) < len(self.snapshots_) - 1:
            raise OptionError(f"k must be in 0 … {len(self.snapshots_) - 2}; got {k}.")
        return self.chains_.links[k]  # type: ignore[return-value]

    def weights(self, t: float, x: Tensor) -> tuple[Tensor, int]:
        """Probability of each cell of the next snapshot for states at ``t``.

        Parameters
        ----------
        t : float
            Time.
        x : Tensor, shape (n, d)
            States.

        Returns
        -------
        tuple of Tensor, shape (n, m), and the position of the interval
        """
        k, link = self._interval(float(t))
        y, left = self.snapshots_.clouds[k + 1], float(self.snapshots_.times[k + 1]) - float(t)
        log_w = (
            link.g
            + self.snapshots_.weights[k + 1].log()
            - torch.cdist(x.double(), y).square() / (2 * self.sigma_**2 * max(left, 1e-12))
        )
        return torch.softmax(log_w, dim=1), k

    def drift(self, t: float, x: Tensor) -> Tensor:
        """Forward drift of the bridge.

        Parameters
        ----------
        t : float
            Time inside the range of the snapshots, before the last.
        x : Tensor, shape (n, d)
            States.

        Returns
        -------
        Tensor, shape (n, d)
        """
        x, out = x.double(), []
        for part in self._parts(t, x):
            w, k = self.weights(t, part)
            left = float(self.snapshots_.times[k + 1]) - float(t)
            out.append((w @ self.snapshots_.clouds[k + 1] - part) / max(left, 1e-12))
        return torch.cat(out) if out else x.new_zeros(x.shape)

    def _parts(self, t: float, x: Tensor) -> tuple[Tensor, ...]:
        """Rows in pieces whose weights over the next snapshot take at most ``CELLS`` numbers."""
        k, _ = self._interval(float(t))
        return x.split(max(1, CELLS // self.snapshots_.sizes[k + 1]))

    def push(self, x: Any, start: float, stop: float, *, seed: int = 0) -> Tensor:
        """Move cells forward by exact draws: an end in the next snapshot, then the Brownian bridge to it.

        Parameters
        ----------
        x : array_like, shape (n, d)
            Cells at ``start``.
        start, stop : float
            Times, ``start <= stop``.
        seed : int
            Seed of the draws.

        Returns
        -------
        Tensor, shape (n, d)
        """
        if stop < start:
            raise OptionError(f"The bridge is drawn forward in time; got start {start:g} and stop {stop:g}.")
        generator = torch.Generator().manual_seed(seed)
        x, t = torch.as_tensor(np.asarray(x), dtype=torch.float64), float(start)
        while t < stop:
            k, _ = self._interval(t)
            goal = float(self.snapshots_.times[k + 1])
            y = self.snapshots_.clouds[k + 1][torch.cat([self._ends(t, part, generator) for part in self._parts(t, x)])]
            until = min(goal, float(stop))
            share, spread = (until - t) / (goal - t), math.sqrt((until - t) * (goal - until) / (goal - t))
            z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
            x, t = (1 - share) * x + share * y + self.sigma_ * spread * z, until
        return x

    def _ends(self, t: float, x: Tensor, generator: torch.Generator) -> Tensor:
        """One cell of the next snapshot for every state, drawn by its weight."""
        ladder = self.weights(t, x)[0].cumsum(dim=1)
        u = torch.rand(len(x), 1, generator=generator, dtype=x.dtype) * ladder[:, -1:]
        return torch.searchsorted(ladder, u).squeeze(1).clamp_max(ladder.shape[1] - 1)
