"""Forecasts of a held-out snapshot that cost nothing, and distances to it."""

from __future__ import annotations

from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["evaluate_cloud", "interpolate_clouds", "optimal_pairs", "wasserstein"]


def equal_sizes(x: Tensor, y: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Both clouds at the size of the smaller one, the larger drawn without replacement."""
    n = min(len(x), len(y))
    pick = [c if len(c) == n else c[torch.randperm(len(c), generator=generator)[:n]] for c in (x, y)]
    return pick[0], pick[1]


def optimal_pairs(x: Tensor, y: Tensor) -> tuple[Tensor, Tensor]:
    """Partner in ``y`` of every row of ``x`` (squared distance, equal sizes), and the matched distances."""
    from scidyn.transport import exact_transport

    plan = exact_transport(x, y)
    j = torch.empty(len(x), dtype=torch.long, device=x.device)
    j[plan.source] = plan.target
    return j, torch.linalg.vector_norm(x - y[j], dim=1)


def wasserstein(x: Tensor, y: Tensor, metric: str) -> float:
    """Exact Wasserstein distance of order 1 (``"w1"``) or 2 (``"w2"``) between clouds of equal size."""
    from scidyn import transport

    return float(transport.wasserstein(x, y, 1 if metric == "w1" else 2, method="exact").value)


def interpolate_clouds(x: Tensor, y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """McCann interpolation of the optimal assignment: ``(1 − share) x + share y``."""
    x, y = equal_sizes(x, y, generator)
    j, _ = optimal_pairs(x, y)
    return (1 - share) * x + share * y[j]


def evaluate_cloud(
    guesses: Mapping[str, Tensor], target: Tensor, metric: str, generator: torch.Generator
) -> dict[str, float]:
    """Distance of every guess from ``target`` at equal size, and ``floor``: two halves of the target."""
    out = {}
    for name, guess in guesses.items():
        a, b = equal_sizes(guess, target, generator)
        out[name] = wasserstein(a, b, metric)
    order = torch.randperm(len(target), generator=generator)
    half = len(target) // 2
    out["floor"] = wasserstein(target[order[:half]], target[order[half : 2 * half]], metric)
    return out
