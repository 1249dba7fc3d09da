"""Autograd through the accepted steps: most memory, every feature."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.methods.explicit_rk import Rate, advance, step
from scidyn.solvers.tableaus import Tableau

__all__ = ["replay"]


def replay(
    rate: Rate, tableau: Tableau, y0: Tensor, times: Tensor, size: Tensor, wanted: Tensor, at_nodes: bool
) -> Tensor:
    """Repeat the accepted steps so that autograd records them.

    Parameters
    ----------
    rate, tableau
        Vector field on rows, and the method.
    y0 : Tensor, shape (batch, D)
        Initial rows.
    times, size : Tensor, shapes (N + 1, b) and (N, b)
        The grid of steps.
    wanted : Tensor, shape (b, T) or (1, T)
        Times to report; those outside the grid take the nearest step, the caller masks them.
    at_nodes : bool
        True if every wanted time is a node.

    Returns
    -------
    Tensor, shape (batch, T, D)
    """
    if len(size) == 0:
        return y0.unsqueeze(1).expand(-1, wanted.shape[1], -1)
    index, theta = locate(times, wanted.expand(times.shape[1], -1))
    states, coefs = [y0], []
    if at_nodes:
        for t, h in zip(times[:-1], size, strict=True):
            states.append(advance(rate, tableau, t, h, states[-1]))
        nodes = torch.stack(states)
        rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return nodes[index + (theta > 0.5), rows]
    k1 = rate(times[0], y0)
    for t, h in zip(times[:-1], size, strict=True):
        y1, k_last, _, coef = step(rate, tableau, t, h, states[-1], k1)
        # a sample that did not move in this step keeps the rate of its state
        k1 = k_last if h.numel() == 1 else torch.where((h > 0).unsqueeze(-1), k_last, k1)
        states.append(y1)
        coefs.append(torch.stack(coef))
    return evaluate(Records(times, size, torch.stack(states[:-1]), torch.stack(coefs)), index, theta)
