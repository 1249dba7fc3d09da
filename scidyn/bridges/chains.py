"""Couplings of all snapshots in a row, and smooth curves through the coupled cells."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from scidyn._check.values import choice
from scidyn.bridges.baselines import optimal_pairs
from scidyn.bridges.coupling import Coupling, brownian_coupling, systematic
from scidyn.bridges.snapshots import Snapshots

__all__ = ["COUPLINGS", "PATHS", "Chains", "couple"]

COUPLINGS = ("exact", "sinkhorn", "independent", "paired")
PATHS = ("linear", "momentum")


@dataclass(frozen=True)
class Chains:
    """Draws one cell per snapshot, neighbours coupled.

    Attributes
    ----------
    snapshots : Snapshots
        The clouds.
    kind : str
        How neighbours are coupled.
    links : tuple
        Per interval: a coupling (``"sinkhorn"``), the partner of every cell (``"exact"``), or None.
    """

    snapshots: Snapshots
    kind: str
    links: tuple[Coupling | Tensor | None, ...]

    def draw(self, n: int, generator: torch.Generator) -> list[Tensor]:
        """Return one ``(n, d)`` tensor of cells per snapshot."""
        s = self.snapshots
        start = int(torch.randint(len(s) - 1, (1,), generator=generator)) if self.kind == "exact" else 0
        i = systematic(s.weights[start], n, generator)
        rows: dict[int, Tensor] = {start: i}
        for k in range(start, len(s) - 1):
            rows[k + 1] = self._step(k, rows[k], generator)
        for k in range(start - 1, -1, -1):
            rows[k] = self._back(k, rows[k + 1], generator)
        return [s.clouds[k][rows[k]] for k in range(len(s))]

    def _step(self, k: int, i: Tensor, generator: torch.Generator) -> Tensor:
        link = self.links[k]
        if isinstance(link, Coupling):
            return link.sample_targets(i, generator)
        if link is None:
            return i if self.kind == "paired" else systematic(self.snapshots.weights[k + 1], len(i), generator)
        choices = link[i]
        pick = (torch.rand(len(i), 1, generator=generator) * choices.shape[1]).long()
        return choices.gather(1, pick).squeeze(1)

    def _back(self, k: int, j: Tensor, generator: torch.Generator) -> Tensor:
        link = self.links[k]
        if link is None or isinstance(link, Coupling):
            return systematic(self.snapshots.weights[k], len(j), generator)
        flat = torch.full((self.snapshots.sizes[k + 1],), -1)
        order = torch.randperm(len(link), generator=generator)
        for column in range(link.shape[1]):
            flat[link[order, column]] = order
        lost = flat[j] < 0
        out = flat[j]
        if bool(lost.any()):
            distance = torch.cdist(self.snapshots.clouds[k + 1][j[lost]], self.snapshots.clouds[k + 1])
            distance[:, flat < 0] = torch.inf
            out[lost] = flat[distance.argmin(dim=1)]
        return out


def couple(
    snapshots: Snapshots,
    kind: str,
    *,
    sigma: float = 0.0,
    generator: torch.Generator,
    growth: Sequence[Tensor] | None = None,
    tau: float = 1.0,
    progress: Callable[[float], None] | None = None,
) -> Chains:
    """Couple neighbouring snapshots.

    Parameters
    ----------
    snapshots : Snapshots
        The clouds.
    kind : {"exact", "sinkhorn", "independent", "paired"}
        Optimal transport of the squared distance; the entropic plan of a Brownian reference with
        diffusion ``sigma``; the product; or the rows as they stand.
    sigma : float
        Diffusion of the entropic plan, state/√time.
    generator : torch.Generator
        Breaks ties between clouds of different sizes.
    growth : sequence of Tensor of shape (cell,), optional
        Net growth rate of every cell, 1/time: sources of the entropic plan weigh ``exp(growth · Δ)`` more.
    tau : float
        How strictly the sources' weights bind in the entropic plan.
    progress : callable, optional
        Told the finished fraction of the intervals.
    """
    choice("coupling", kind, COUPLINGS)
    links: list[Coupling | Tensor | None] = []
    for k in range(len(snapshots) - 1):
        x, y = snapshots.clouds[k], snapshots.clouds[k + 1]
        if kind == "sinkhorn":
            span = float(snapshots.times[k + 1] - snapshots.times[k])
            where = f"times {snapshots.times[k]:g} and {snapshots.times[k + 1]:g}"
            a = snapshots.weights[k]
            if growth is not None:
                a = torch.softmax(a.log() + growth[k] * span, dim=0)
            links.append(
                brownian_coupling(x, y, a, snapshots.weights[k + 1], variance=sigma**2 * span, tau=tau, where=where)
            )
        elif kind == "exact":
            links.append(_partners(x, y, generator))
        else:
            links.append(None)
        if progress is not None:
            progress((k + 1) / (len(snapshots) - 1))
    return Chains(snapshots, kind, tuple(links))


def _partners(x: Tensor, y: Tensor, generator: torch.Generator, repeats: int = 4) -> Tensor:
    """Partners of every cell of ``x``, shape ``(n, r)``; unequal clouds are matched several times at random."""
    if len(x) == len(y):
        return optimal_pairs(x, y)[0].unsqueeze(1)
    columns = []
    for _ in range(repeats):
        size = len(x)
        base = torch.arange(len(y)).repeat(size // len(y))
        rest = torch.randperm(len(y), generator=generator)[: size - len(base)]
        targets = torch.cat([base, rest])
        columns.append(targets[optimal_pairs(x, y[targets])[0]])
    return torch.stack(columns, dim=1)


class Curve:
    """Weights of a curve through points at the snapshot times: ``x(t) = Σ_k w_k(t) x_k``.

    ``"linear"`` joins neighbours. ``"momentum"`` is the mean path of a particle whose velocity is an
    Ornstein–Uhlenbeck process with the persistence of half a mean interval: nearly straight over long
    gaps, without corners over short ones.
    """

    def __init__(self, times: Tensor, kind: str) -> None:
        self.times = times.numpy()
        self.kind = choice("path", kind, PATHS)
        self._rate = 2.0 / float(np.diff(self.times).mean())
        if kind == "momentum":
            s, n = self.times - self.times[0], len(times)
            system = np.zeros((n + 1, n + 1))
            system[:n, :n] = self._kernel(s[:, None], s[None])
            system[n, :n] = system[:n, n] = 1.0
            self._inverse = np.linalg.inv(system)

    def _kernel(self, s: np.ndarray, u: np.ndarray) -> np.ndarray:
        k = self._rate
        return 2 * k * np.minimum(s, u) + np.exp(-k * s) + np.exp(-k * u) - 1 - np.exp(-k * np.abs(s - u))

    def weights(self, t: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """Values and time derivatives of the weights at times ``t``, each of shape ``(n, snapshot)``."""
        if self.kind == "linear":
            n = len(self.times)
            k = np.clip(np.searchsorted(self.times, t, side="right") - 1, 0, n - 2)
            gap = self.times[k + 1] - self.times[k]
            share = (t - self.times[k]) / gap
            w, dw, rows = np.zeros((len(t), n)), np.zeros((len(t), n)), np.arange(len(t))
            w[rows, k], w[rows, k + 1] = 1 - share, share
            dw[rows, k], dw[rows, k + 1] = -1 / gap, 1 / gap
            return w, dw
        s, u, k = self.times - self.times[0], (t - self.times[0])[:, None], self._rate
        value = np.hstack([self._kernel(u, s[None]), np.ones((len(t), 1))])
        slope = 2 * k * (u < s) - k * np.exp(-k * u) + k * np.sign(u - s) * np.exp(-k * np.abs(u - s))
        slope = np.hstack([slope, np.zeros((len(t), 1))])
        return (value @ self._inverse)[:, :-1], (slope @ self._inverse)[:, :-1]
