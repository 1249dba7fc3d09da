"""Transport on a line, by sorting."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.transport.problem import wide

__all__ = ["quantile_costs"]


def quantile_costs(x: Tensor, y: Tensor, a: Tensor | None = None, b: Tensor | None = None, *, p: int) -> Tensor:
    """``∫ |F⁻¹(u) - G⁻¹(u)|^p du`` for rows of points on a line.

    ``x`` is (k, n) and ``y`` (k, m); weights are (n,) and (m,), uniform if None. Returns (k,).
    """
    x_sorted, x_order = x.sort(1)
    y_sorted, y_order = y.sort(1)
    if a is None and b is None and x.shape[1] == y.shape[1]:
        return (x_sorted - y_sorted).abs().pow(p).mean(1)
    x_levels, y_levels = _levels(x_order, a), _levels(y_order, b)
    levels = torch.cat([x_levels, y_levels], 1).sort(1).values
    width = torch.diff(levels, dim=1, prepend=levels.new_zeros(len(levels), 1))
    middle = levels - 0.5 * width
    i = torch.searchsorted(x_levels, middle).clamp_max(x.shape[1] - 1)
    j = torch.searchsorted(y_levels, middle).clamp_max(y.shape[1] - 1)
    return (width.to(x.dtype) * (x_sorted.gather(1, i) - y_sorted.gather(1, j)).abs().pow(p)).sum(1)


def _levels(order: Tensor, weights: Tensor | None) -> Tensor:
    """Cumulative weights along each sorted row, ending at 1."""
    count = order.shape[1]
    if weights is None:
        line = torch.arange(1, count + 1, device=order.device, dtype=wide(order.device)) / count
        return line.expand(len(order), count).contiguous()
    ladder = weights.detach()[order].cumsum(1)
    return (ladder / ladder[:, -1:]).contiguous()
