"""Iterative proportional fitting: the bridge of any simulated reference, by regression of drifts."""

from __future__ import annotations

import math
from dataclasses import dataclass, field

import torch
from torch import Tensor

from scidyn.bridges.coupling import systematic
from scidyn.bridges.family import Family
from scidyn.bridges.linearised import Noise
from scidyn.bridges.snapshots import Snapshots
from scidyn.errors import FitError

__all__ = ["IPFBridge", "RidgeDrift"]


@dataclass
class RidgeDrift:
    """A drift as a ridge regression on random cosines of state and time, and on the state itself.

    Attributes
    ----------
    features : int
        Number of cosines.
    penalty : float
        Ridge penalty, beside observations of unit variance.
    """

    features: int = 150
    penalty: float = 1e-3
    _state: dict[str, Tensor] = field(default_factory=dict)

    def fit(self, t: Tensor, x: Tensor, rate: Tensor, generator: torch.Generator) -> RidgeDrift:
        """Regress rates ``(n, d)`` on times ``(n,)`` in [0, 1] and states ``(n, d)``."""
        s = self._state
        s["centre"], s["scale"] = x.mean(dim=0), x.std(dim=0).clamp_min(1e-9)
        omega = torch.randn(x.shape[1] + 1, self.features, generator=generator, dtype=x.dtype)
        s["omega"] = omega / math.sqrt(x.shape[1])
        s["phase"] = 2 * math.pi * torch.rand(self.features, generator=generator, dtype=x.dtype)
        phi = self._features(t, x)
        normal = phi.mT @ phi / len(phi) + self.penalty / len(phi) ** 0.5 * torch.eye(
            phi.shape[1], dtype=x.dtype, device=x.device
        )
        s["coefficients"] = torch.linalg.solve(normal, phi.mT @ rate / len(phi))
        return self

    def _features(self, t: Tensor, x: Tensor) -> Tensor:
        s = self._state
        u = ((x - s["centre"]) / s["scale"]).clamp(-6.0, 6.0)
        both = torch.cat([u, 4 * t.unsqueeze(1) - 2], dim=1)
        waves = torch.cos(both @ s["omega"] + s["phase"]) * math.sqrt(2 / self.features)
        return torch.cat([torch.ones_like(t).unsqueeze(1), both, both * (4 * t.unsqueeze(1) - 2), waves], dim=1)

    def __call__(self, t: Tensor, x: Tensor) -> Tensor:
        """Evaluate the drift."""
        return self._features(t, x) @ self._state["coefficients"]


@dataclass(frozen=True)
class IPFBridge:
    """Bridges over all intervals whose drifts were found by iterative proportional fitting.

    On each interval the reference is simulated from the first snapshot; the reversed paths give a
    backward drift, which is simulated from the second snapshot; its reversed paths give a forward
    drift; and so on. Each regression projects on the processes with one right marginal.

    Attributes
    ----------
    snapshots : Snapshots
        Marginals.
    family : Family
        Drift of the reference.
    theta : Tensor, shape (parameter,)
        Its parameters.
    noise : callable
        Diagonal diffusion.
    forward : tuple of RidgeDrift
        Forward drift of each interval, in state per interval.
    value : float
        ``E ∫ |b − b_θ|² / (2σ²) dt`` on simulated paths.
    n_steps : int
        Steps per interval.
    """

    snapshots: Snapshots
    family: Family
    theta: Tensor
    noise: Noise
    forward: tuple[RidgeDrift, ...]
    value: float
    n_steps: int

    @classmethod
    def solve(
        cls,
        snapshots: Snapshots,
        family: Family,
        theta: Tensor,
        noise: Noise,
        *,
        n_paths: int,
        n_steps: int,
        generator: torch.Generator,
        rounds: int = 8,
    ) -> IPFBridge:
        """Fit all intervals under the reference with parameters ``theta``."""
        drifts, value = [], 0.0
        for k in range(len(snapshots) - 1):
            start, span = snapshots.times[k], float(snapshots.times[k + 1] - snapshots.times[k])

            def reference(u: Tensor, x: Tensor, start: Tensor = start, span: float = span) -> Tensor:
                return span * family.drift(start + span * u, x, theta)

            draws = [snapshots.clouds[k + e][systematic(snapshots.weights[k + e], n_paths, generator)] for e in (0, 1)]
            paths = _simulate(reference, draws[0], noise, span, n_steps, generator)
            drift = RidgeDrift()
            for _ in range(rounds):
                back = _regress(paths.flip(1), generator, reverse=True)
                paths = _simulate(back, draws[1], noise, span, n_steps, generator, reverse=True).flip(1)
                drift = _regress(paths, generator, reverse=False)
                paths = _simulate(drift, draws[0], noise, span, n_steps, generator)
            drifts.append(drift)
            for step in range(n_steps):
                u = torch.full((n_paths,), step / n_steps, dtype=torch.float64)
                gap = (drift(u, paths[:, step]) - reference(u, paths[:, step])) / noise(paths[:, step])
                value += float(gap.square().sum(dim=1).mean()) / (2 * span * n_steps)
        return cls(snapshots, family, theta, noise, tuple(drifts), value, n_steps)

    def pairs(self, k: int, n: int, n_steps: int, generator: torch.Generator) -> tuple[None, Tensor, Tensor]:
        """Drawn paths ``(n, grid, d)`` of interval ``k``."""
        x = self.snapshots.clouds[k][systematic(self.snapshots.weights[k], n, generator)]
        path = self._run(k, x, n_steps, generator)
        return None, path, path[:, -1]

    def _run(self, k: int, x: Tensor, n_steps: int, generator: torch.Generator) -> Tensor:
        span = float(self.snapshots.times[k + 1] - self.snapshots.times[k])
        return _simulate(self.forward[k], x, self.noise, span, n_steps, generator)

    def at(self, t: float, n: int, generator: torch.Generator) -> Tensor:
        """Draw ``n`` states at time ``t``; between steps, by linear interpolation."""
        times = self.snapshots.times
        k = min(int(torch.searchsorted(times, torch.tensor(t, dtype=times.dtype), right=True)) - 1, len(times) - 2)
        place = float((t - times[k]) / (times[k + 1] - times[k])) * self.n_steps
        _, path, _ = self.pairs(k, n, self.n_steps, generator)
        low = min(int(place), self.n_steps - 1)
        return path[:, low] + (place - low) * (path[:, low + 1] - path[:, low])

    def paths(self, n: int, n_steps: int, generator: torch.Generator) -> tuple[Tensor, Tensor]:
        """Whole paths from the first snapshot: times ``(time,)`` and states ``(n, time, d)``."""
        s = self.snapshots
        x = s.clouds[0][systematic(s.weights[0], n, generator)]
        times, pieces = [s.times[:1]], [x.unsqueeze(1)]
        for k in range(len(s) - 1):
            path = self._run(k, pieces[-1][:, -1], n_steps, generator)
            grid = torch.linspace(0, 1, n_steps + 1, dtype=torch.float64)[1:]
            times.append(s.times[k] + (s.times[k + 1] - s.times[k]) * grid)
            pieces.append(path[:, 1:])
        return torch.cat(times), torch.cat(pieces, dim=1)


def _simulate(
    drift: object, x: Tensor, noise: Noise, span: float, n_steps: int, generator: torch.Generator, reverse: bool = False
) -> Tensor:
    """Euler–Maruyama on the unit interval; a reversed path keeps the clock of the forward one."""
    h, path = 1.0 / n_steps, [x]
    for step in range(n_steps):
        clock = 1.0 - step * h if reverse else step * h
        u = torch.full((len(x),), clock, dtype=x.dtype, device=x.device)
        z = torch.randn(x.shape, generator=generator, dtype=x.dtype)
        x = x + h * drift(u, x) + noise(x) * math.sqrt(span * h) * z  # type: ignore[operator]
        path.append(x)
    out = torch.stack(path, dim=1)
    if not bool(torch.isfinite(out).all()):
        raise FitError("Simulated paths left the finite numbers; use bridge='linearised' or start nearer the truth.")
    return out


def _regress(paths: Tensor, generator: torch.Generator, *, reverse: bool) -> RidgeDrift:
    """Drift of paths ``(n, grid, d)`` in their own order; time runs from 1 to 0 if ``reverse``."""
    n, count, d = paths.shape
    h = 1.0 / (count - 1)
    u = torch.arange(count - 1, dtype=paths.dtype, device=paths.device) * h
    clock = (1.0 - u if reverse else u).expand(n, -1).reshape(-1)
    rate = (paths[:, 1:] - paths[:, :-1]) / h
    return RidgeDrift().fit(clock, paths[:, :-1].reshape(-1, d), rate.reshape(-1, d), generator)
