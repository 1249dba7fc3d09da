"""Forecasts of a held-out snapshot that cost nothing, and distances to it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor

__all__ = ["METRICS", "cloud_distance", "evaluate_cloud", "interpolate_clouds", "optimal_pairs"]

METRICS = ("w1", "w2", "sliced", "mmd", "energy")


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


def cloud_distance(x: Tensor, y: Tensor, metric: str) -> float:
    """Distance between clouds of equal size: exact Wasserstein of order 1 or 2, or another by its name."""
    from scidyn import transport

    if metric in ("w1", "w2"):
        return float(transport.wasserstein(x, y, 1 if metric == "w1" else 2, method="exact").value)
    other = {"mmd": transport.mmd, "energy": transport.energy_distance, "sliced": transport.sliced_wasserstein}
    return float(other[metric](x, y).value)


def interpolate_clouds(x: Tensor, y: Tensor, share: float, generator: torch.Generator) -> Tensor:
    """McCann interpolation of the optimal assignment: ``(1 − share) x + share y``."""
    x, y = equal_sizes(x, y, generator)
    j, _ = optimal_pairs(x, y)
    return (1 - share) * x + share * y[j]


def evaluate_cloud(
    guesses: Mapping[str, Tensor], target: Tensor, metrics: Sequence[str], generator: torch.Generator
) -> dict[str, list[float]]:
    """Distances of every guess from ``target`` at equal size, and ``floor``: two halves of the target."""
    out = {}
    for name, guess in guesses.items():
        a, b = equal_sizes(guess, target, generator)
        out[name] = [cloud_distance(a, b, metric) for metric in metrics]
    order = torch.randperm(len(target), generator=generator)
    half = len(target) // 2
    first, second = target[order[:half]], target[order[half : 2 * half]]
    out["floor"] = [cloud_distance(first, second, metric) for metric in metrics]
    return out
