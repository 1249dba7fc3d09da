"""Fields written for one time, used where every sample has its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

__all__ = ["batch_time", "expand_time"]


def expand_time(t: Tensor, y: Tensor) -> Tensor:
    """Give a time, or one per sample, the axes of the state, so that it can be added, multiplied or joined to it.

    Parameters
    ----------
    t : Tensor, shape () or (batch,)
        What ``f`` receives.
    y : Tensor, shape (batch, *state)
        State.

    Returns
    -------
    Tensor, shape (batch, 1, …, 1)
        As many axes as ``y``; a scalar is repeated for every sample.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import expand_time, solve_ode
    >>> f = lambda t, y: -y * torch.cos(expand_time(t, y))
    >>> y0 = torch.ones(3, 2, dtype=torch.float64)
    >>> solve_ode(f, y0, [0.0, 1.0]).success and solve_ode(f, y0, [0.0, 1.0], stepping="per_sample").success
    True
    """
    return t.reshape(-1, *[1] * (y.ndim - 1)).expand(y.shape[0], *[1] * (y.ndim - 1))


def batch_time(f: Callable[..., Any]) -> Callable[..., Any]:
    """Let a field for one sample and one time serve a batch with a time for each sample.

    Parameters
    ----------
    f : callable
        ``f(t, y)`` or ``f(t, y, args)`` with a scalar ``t`` and the state (*state) of one sample; ``args`` is the
        same for all samples.

    Returns
    -------
    callable
        The same function of ``t`` () or (batch,) and ``y`` (batch, *state), by :func:`torch.func.vmap`.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import batch_time, solve_ode
    >>> def f(t, y):
    ...     return torch.stack([y[1], torch.sin(t) - y[0]])
    >>> y0 = torch.ones(3, 2, dtype=torch.float64)
    >>> solve_ode(batch_time(f), y0, [0.0, 1.0], stepping="per_sample").y.shape
    torch.Size([3, 2, 2])
    """

    def batched(t: Tensor, y: Any, *args: Any) -> Any:
        count = pytree.tree_leaves(y)[0].shape[0]
        return torch.func.vmap(lambda time, state: f(time, state, *args))(t.expand(count), y)

    return batched
