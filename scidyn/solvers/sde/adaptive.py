"""Choose steps by an error estimate along one Brownian path that is a function of time."""

from __future__ import annotations

import itertools
from typing import Any, NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.brownian.noise import Noise, join
from scidyn.solvers.sde.engine import Tick
from scidyn.solvers.sde.methods.stepper import Carry, SDEMethod
from scidyn.solvers.sde.terms import Terms
from scidyn.solvers.status import Status

__all__ = ["AdaptiveResult", "TreeOnGrid", "solve_adaptive"]

SAFETY, LARGEST, SMALLEST = 0.9, 5.0, 0.2
PROPORTIONAL, INTEGRAL = 0.1, 0.3


class TreeOnGrid:
    """A tree seen on the steps that were accepted."""

    def __init__(self, tree: Any, grid: list[float]) -> None:
        self.tree, self.grid = tree, grid

    def block(self, start: int, stop: int) -> Noise:
        """Noise of a range of steps."""
        steps = [self.tree.increment(*pair) for pair in itertools.pairwise(self.grid[start : stop + 1])]
        return Noise.of(None if p[0] is None else torch.stack(p) for p in zip(*steps, strict=True))


class AdaptiveResult(NamedTuple):
    """Grid of accepted steps, reported states, and how each row fared."""

    grid: list[float]
    y: Tensor
    rejected: int
    reads: int
    code: Tensor
    reached: Tensor


def solve_adaptive(
    terms: Terms,
    method: SDEMethod,
    tree: Any,
    y: Tensor,
    times: list[float],
    nodes: list[float],
    tolerance: tuple[float, float],
    sizes: tuple[float, float],
    max_steps: int,
    tick: Tick,
) -> AdaptiveResult:
    """March from node to node with one step for all rows; one value is read per attempt.

    ``sizes`` holds the first and the smallest step. A method without an estimate is compared
    with two of its steps of half the length. A row whose error is too large at the smallest
    step is given up, and the others go on.
    """
    h, smallest = sizes
    order = method.about.strong + 0.5
    grid, kept = [times[0]], {0: y}
    place = {t: i for i, t in enumerate(times)}
    active = torch.ones(y.shape[0], dtype=torch.bool, device=y.device)
    code = torch.full((y.shape[0],), int(Status.SUCCESS), device=y.device)
    reached = torch.full((y.shape[0],), times[-1], dtype=torch.float64, device=y.device)
    before, rejected, attempts, lost = 1.0, 0, 0, False
    t = times[0]
    carry = method.begin(terms, _stamp(t, y), y)
    for node in nodes[1:]:
        while t < node and attempts < max_steps:
            attempts += 1
            last = t + h * (1 + 1e-9) >= node
            end = node if last else t + h
            y1, next_carry, error, inner = _attempt(terms, method, tree, t, end, y, carry)
            scale = tolerance[1] + tolerance[0] * torch.maximum(y.abs(), y1.abs())
            ratio = (error / scale).flatten(1).square().mean(1).sqrt()
            ratio = torch.where(torch.isfinite(ratio) & torch.isfinite(y1).flatten(1).all(1), ratio, torch.inf)
            worst = float(torch.where(active, ratio, 0.0).amax()) if lost else float(ratio.amax())
            step = end - t
            if worst > 1.0 and step > smallest * (1 + 1e-9):
                rejected += 1
                h = max(smallest, step * min(SAFETY, max(SMALLEST, SAFETY * worst ** (-1.0 / order))))
                continue
            if worst > 1.0:
                lost = True
                failed = active & (ratio > 1.0)
                code = torch.where(failed, int(Status.STEP_UNDERFLOW), code)
                reached = torch.where(failed, t, reached)
                active = active & ~failed
                y1 = torch.where(active.view(-1, *([1] * (y.ndim - 1))), y1, torch.nan)
                worst = 1.0
            used = max(worst, 1e-4)
            factor = SAFETY * used ** (-(PROPORTIONAL + INTEGRAL) / order) * before ** (PROPORTIONAL / order)
            before = used
            proposed = step * min(LARGEST, max(SMALLEST, factor))
            h = max(h, proposed) if last and step < 0.5 * h else max(smallest, proposed)
            grid.extend(inner)
            t, y, carry = end, y1, next_carry
        if t < node:
            rest = active
            code = torch.where(rest, int(Status.MAX_STEPS), code)
            reached = torch.where(rest, t, reached)
            break
        if node in place:
            kept[place[node]] = y
            if tick is not None:
                tick((node - times[0]) / (times[-1] - times[0]))
    missing = torch.full_like(y, torch.nan)
    states = torch.stack([kept.get(i, missing) for i in range(len(times))], dim=1)
    return AdaptiveResult(grid, states, rejected, attempts, code, reached)


def _stamp(t: float, like: Tensor) -> Tensor:
    """A scalar time in the state's dtype."""
    return torch.full((), t, dtype=like.real.dtype, device=like.device)


def _attempt(
    terms: Terms, method: SDEMethod, tree: Any, t: float, end: float, y: Tensor, carry: Carry
) -> tuple[Tensor, Carry, Tensor, list[float]]:
    """One step and its error: the method's own estimate, or the gap to two steps of half the length."""
    stamp, h = _stamp(t, y), end - t
    if method.about.estimate:
        y1, after, err = method.step(terms, stamp, h, y, carry, tree.increment(t, end))
        return y1, after, torch.zeros_like(y) if err is None else err, [end]
    middle = 0.5 * (t + end)
    a, b = middle - t, end - middle
    first, second = tree.increment(t, middle), tree.increment(middle, end)
    coarse = method.step(terms, stamp, h, y, carry, join(first, second, a, b)).y
    halfway = method.step(terms, stamp, a, y, carry, first)
    fine = method.step(terms, _stamp(middle, y), b, halfway.y, halfway.carry, second)
    return fine.y, fine.carry, fine.y - coarse, [middle, end]
