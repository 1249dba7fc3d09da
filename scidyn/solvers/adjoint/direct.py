"""Autograd through the accepted steps: most memory, every feature."""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.solvers.dense import Records, evaluate, locate
from scidyn.solvers.methods.stepper import Method, Rate, pinned

__all__ = ["replay"]


def replay(
    rate: Rate,
    method: Method,
    y0: Tensor,
    times: Tensor,
    size: Tensor,
    wanted: Tensor,
    at_nodes: bool,
    choice: Tensor | None = None,
) -> Tensor:
    """Repeat the accepted steps so that autograd records them.

    Parameters
    ----------
    rate, method
        Vector field on rows, and the method.
    y0 : Tensor, shape (batch, D)
        Initial rows.
    times, size : Tensor, shapes (N + 1, b) and (N, b)
        The grid of steps.
    wanted : Tensor, shape (b, T) or (1, T)
        Times to report; those outside the grid take the nearest step, the caller masks them.
    at_nodes : bool
        True if every wanted time is a node.
    choice : Tensor, shape (N, batch), optional
        Formulas used, of a method that has several.

    Returns
    -------
    Tensor, shape (batch, T, D)
    """
    if len(size) == 0:
        return y0.unsqueeze(1).expand(-1, wanted.shape[1], -1)
    index, theta = locate(times, wanted.expand(times.shape[1], -1))
    # padded times take part with a gradient of zero, which NaN would spoil
    theta = theta.nan_to_num(nan=0.0)
    states, coefs = [y0], []
    formulas = [method] * len(size) if choice is None else [pinned(method, c) for c in choice]
    if at_nodes:
        for t, h, formula in zip(times[:-1], size, formulas, strict=True):
            states.append(formula.replay(rate, t, h, states[-1], dense=False).y1)
        nodes = torch.stack(states)
        rows = torch.arange(index.shape[0], device=index.device).unsqueeze(1)
        return nodes[index + (theta > 0.5), rows]
    for t, h, formula in zip(times[:-1], size, formulas, strict=True):
        taken = formula.replay(rate, t, h, states[-1])
        states.append(taken.y1)
        coefs.append(torch.stack(taken.coef))
    return evaluate(Records(times, size, torch.stack(states[:-1]), torch.stack(coefs)), index, theta)
