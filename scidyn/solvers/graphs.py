"""A block of attempts on buffers that stay in place, as a captured graph of an accelerator needs them."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState, Outcome, attempts

__all__ = ["StaticBlock"]

WARM_UPS = 3


class StaticBlock:
    """Make K attempts on static buffers: on a CUDA device as one captured graph, elsewhere call by call.

    It takes the place of ``try_step`` in :func:`scidyn.solvers.loop.integrate`. What it gives is copied out of the
    buffers, because the next replay writes them again.

    Parameters
    ----------
    problem : Problem
        A checked problem; ``f`` must launch the same kernels in every call and read nothing on the host.
    count : int
        Attempts in a block.
    """

    def __init__(self, problem: Problem, count: int) -> None:
        self._problem, self._count = problem, count
        self._inputs: tuple[LoopState, Bounds] | None = None
        self._outcome: Outcome | None = None
        self._graph: torch.cuda.CUDAGraph | None = None
        self.replays = 0

    @property
    def captured(self) -> bool:
        """True once a graph is replayed."""
        return self._graph is not None

    def __call__(self, state: LoopState, bounds: Bounds) -> Outcome:
        """Copy the loop into the buffers, run the block, and copy its outcome."""
        if self._inputs is None:
            self._inputs = pytree.tree_map(_clone, (state, bounds))
            if state.y.device.type == "cuda":
                self._capture()
        else:
            pytree.tree_map(_copy, self._inputs, (state, bounds))
        self.replays += 1
        if self._graph is None:
            self._outcome = self._run()
        else:
            self._graph.replay()
        return pytree.tree_map(_clone, self._outcome)

    def _run(self) -> Outcome:
        """Make the attempts from the buffers."""
        if self._inputs is None:
            raise RuntimeError("the buffers are filled by the first call.")
        state, bounds = self._inputs
        problem = self._problem
        return attempts(self._count, problem.field, problem.method, problem.controller, bounds, state)

    def _capture(self) -> None:
        """Run a few times beside the main stream, then record the kernels."""
        stream = torch.cuda.Stream()
        stream.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(stream):
            for _ in range(WARM_UPS):
                self._run()
        torch.cuda.current_stream().wait_stream(stream)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            self._outcome = self._run()
        self._graph = graph


def _clone(value: Any) -> Any:
    """Copy a tensor; what else is in the bounds stays."""
    return value.clone() if isinstance(value, Tensor) else value


def _copy(buffer: Any, new: Any) -> Any:
    """Write new values into a buffer."""
    return buffer.copy_(new) if isinstance(buffer, Tensor) else buffer
