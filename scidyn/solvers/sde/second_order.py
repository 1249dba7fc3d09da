"""The gradient of a solve as something that can be differentiated again."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from scidyn.solvers.adjoint.capture import Gate
from scidyn.solvers.sde.capture import swapping

__all__ = ["gradient_twice"]


def gradient_twice(
    solve: Any, y0: Tensor, ids: Sequence[int], params: Sequence[Tensor], grad: Tensor
) -> tuple[Tensor | None, list[Tensor | None]]:
    """Take all steps once more under autograd and pull ``grad`` back with a graph of its own.

    ``solve(y0)`` gives the reported states. The copies behind the gate are what it sees in the place of the
    tensors named by ``ids``: gradients stop there now and pass when they are differentiated themselves.
    """
    gate = Gate()
    start, copies = gate(y0), [gate(p) for p in params]
    with swapping(dict(zip(ids, copies, strict=True))):
        y = solve(start)
    inputs = [start, *copies]
    chosen = [x for x in inputs if x.requires_grad]
    gate.closed = True
    found = iter(torch.autograd.grad(y, chosen, grad, create_graph=True, allow_unused=True))
    gate.closed = False
    first, *rest = [next(found) if x.requires_grad else None for x in inputs]
    return first, rest
