"""The multi-marginal bridge of a Markov reference: one two-marginal bridge per interval."""

from __future__ import annotations

import itertools
from dataclasses import dataclass

import torch
from torch import Tensor

from scidyn.bridges.coupling import Coupling, bridge_coupling
from scidyn.bridges.family import Family
from scidyn.bridges.linearised import Moments, Noise, conditional, draw_paths, log_kernel, moments
from scidyn.bridges.snapshots import Snapshots

__all__ = ["PiecewiseBridge"]


@dataclass(frozen=True)
class PiecewiseBridge:
    """The process through all snapshots that is closest to ``R_θ`` (linear noise).

    A Markov reference with hard marginals has a Markov bridge, which is the chain of the bridges
    over the single intervals.

    Attributes
    ----------
    snapshots : Snapshots
        Marginals.
    family : Family
        Drift.
    theta : Tensor, shape (parameter,)
        Its parameters.
    noise : callable
        Diagonal diffusion.
    couplings : tuple of Coupling
        One per interval.
    ends : Moments
        Transition moments of every cell but those of the last snapshot, at both ends.
    """

    snapshots: Snapshots
    family: Family
    theta: Tensor
    noise: Noise
    couplings: tuple[Coupling, ...]
    ends: Moments

    @classmethod
    def solve(
        cls,
        snapshots: Snapshots,
        family: Family,
        theta: Tensor,
        noise: Noise,
        previous: PiecewiseBridge | None = None,
    ) -> PiecewiseBridge:
        """Couple neighbouring snapshots under the reference with parameters ``theta``.

        Parameters
        ----------
        snapshots : Snapshots
            Marginals.
        family : Family
            Drift.
        theta : Tensor, shape (parameter,)
            Its parameters.
        noise : callable
            Diagonal diffusion.
        previous : PiecewiseBridge, optional
            Bridge of near parameters, whose potentials start the iterations.
        """
        ends = moments(family, theta, noise, *_sources(snapshots), _grid(1))
        couplings = []
        for k, rows in enumerate(_rows(snapshots)):
            log_k = log_kernel(ends.mean[rows, -1], ends.cov[rows, -1], snapshots.clouds[k + 1])
            couplings.append(
                bridge_coupling(
                    log_k,
                    snapshots.weights[k],
                    snapshots.weights[k + 1],
                    g=None if previous is None else previous.couplings[k].g,
                    where=f"times {snapshots.times[k]:g} and {snapshots.times[k + 1]:g}",
                )
            )
        return cls(snapshots, family, theta, noise, tuple(couplings), ends)

    @property
    def value(self) -> float:
        """``KL(P ‖ R_θ)`` up to a constant that depends on the snapshots alone."""
        return sum(c.value for c in self.couplings)

    def at(self, t: float, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` states at time ``t`` inside the range of the snapshots, shape ``(n, d)``."""
        times = self.snapshots.times
        k = min(int(torch.searchsorted(times, torch.tensor(t, dtype=times.dtype), right=True)) - 1, len(times) - 2)
        fraction = float((t - times[k]) / (times[k + 1] - times[k]))
        i, j = self.couplings[k].sample(n, generator)
        x, y = self.snapshots.clouds[k][i], self.snapshots.clouds[k + 1][j]
        if fraction <= 0.0 or fraction >= 1.0:
            return x if fraction <= 0.0 else y
        m = self._moments(k, x, torch.tensor([0.0, fraction, 1.0], dtype=x.dtype, device=x.device))
        mean, cov = conditional(m, 1, y)
        z = torch.randn(mean.shape, generator=generator, dtype=mean.dtype)
        values, vectors = torch.linalg.eigh(cov)
        return mean + ((vectors * values.clamp_min(0.0).sqrt().unsqueeze(1)) @ z.unsqueeze(2)).squeeze(2)

    def pairs(self, k: int, n: int, n_steps: int, generator: torch.Generator) -> tuple[Moments, Tensor, Tensor]:
        """Moments on a grid, drawn paths ``(n, grid, d)`` and their ends for interval ``k``."""
        i, j = self.couplings[k].sample(n, generator)
        return self._through(k, i, j, n_steps, generator)

    def paths(self, n: int, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Whole paths through one cell per snapshot: times ``(time,)`` and states ``(n, time, d)``."""
        from scidyn.bridges.coupling import systematic

        i = systematic(self.snapshots.weights[0], n, generator)
        times, pieces = [self.snapshots.times[:1]], [self.snapshots.clouds[0][i].unsqueeze(1)]
        for k, coupling in enumerate(self.couplings):
            j = coupling.sample_targets(i, generator)
            _, path, _ = self._through(k, i, j, n_steps, generator)
            start, stop = self.snapshots.times[k], self.snapshots.times[k + 1]
            times.append(start + (stop - start) * _grid(n_steps)[1:])
            pieces.append(path[:, 1:])
            i = j
        return torch.cat(times), torch.cat(pieces, dim=1)

    def _through(
        self, k: int, i: Tensor, j: Tensor, n_steps: int, generator: torch.Generator
    ) -> tuple[Moments, Tensor, Tensor]:
        x, y = self.snapshots.clouds[k][i], self.snapshots.clouds[k + 1][j]
        m = self._moments(k, x, _grid(n_steps))
        return m, draw_paths(m, y, generator), y

    def _moments(self, k: int, x: Tensor, grid: Tensor) -> Moments:
        start, stop = self.snapshots.times[k], self.snapshots.times[k + 1]
        one = x.new_ones(len(x))
        return moments(self.family, self.theta, self.noise, x, start * one, (stop - start) * one, grid)


def _grid(n_steps: int) -> Tensor:
    return torch.linspace(0.0, 1.0, n_steps + 1, dtype=torch.float64)


def _sources(snapshots: Snapshots) -> tuple[Tensor, Tensor, Tensor]:
    """All cells that start an interval, with its first time and length."""
    sizes = torch.tensor(snapshots.sizes[:-1])
    start = torch.repeat_interleave(snapshots.times[:-1], sizes)
    span = torch.repeat_interleave(snapshots.times.diff(), sizes)
    return torch.cat(snapshots.clouds[:-1]), start, span


def _rows(snapshots: Snapshots) -> list[slice]:
    edges = [0, *torch.tensor(snapshots.sizes[:-1]).cumsum(0).tolist()]
    return [slice(a, b) for a, b in itertools.pairwise(edges)]
