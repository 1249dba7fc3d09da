"""Choosing the steps from estimates of the local error, on a path that rejection cannot bias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.brownian.tree import BrownianTree
from scidyn.solvers.sde.methods.method import Carry, Method
from scidyn.solvers.sde.plan import Plan
from scidyn.solvers.sde.terms import Terms

__all__ = ["Control", "Found", "choose_steps"]

SAFETY, SHRINK, GROW = 0.9, 0.2, 5.0
PROPORTIONAL, INTEGRAL = 0.1, 0.3


class Control(NamedTuple):
    """Tolerances and bounds of the step."""

    rtol: float
    atol: float
    dt0: float
    dt_min: float
    max_steps: int


class Found(NamedTuple):
    """The grid that the controller chose, and how far it came."""

    nodes: list[float]
    rejected: int
    host_reads: int
    too_small: bool
    exhausted: bool


def _attempt(
    method: Method, terms: Terms, tree: BrownianTree, t: float, h: float, y: Tensor, jumps: frozenset[float]
) -> tuple[Tensor, Tensor]:
    """One step and its error estimate: embedded, or from two half steps."""
    if method.embedded:
        y1, error = _one(method, terms, tree, t, t + h, y, jumps)
        return y1, y1 - y1 if error is None else error
    middle = t + 0.5 * h
    whole, _ = _one(method, terms, tree, t, t + h, y, jumps)
    half, _ = _one(method, terms, tree, t, middle, y, jumps)
    fine, _ = _one(method, terms, tree, middle, t + h, half, jumps)
    return whole, fine - whole


def _one(
    method: Method, terms: Terms, tree: BrownianTree, s: float, t: float, y: Tensor, jumps: frozenset[float]
) -> tuple[Tensor, Tensor | None]:
    """One step of the method from ``s`` to ``t``."""
    plan = Plan([s, t], [1], frozenset({1}) if t in jumps else frozenset())
    noise = tree.increment(s, t)
    block = noise.map(lambda x: x.unsqueeze(0))
    derived = tuple(x[0] for x in method.derive(block, plan.sizes(0, 1, block.W)))
    times = plan.stage_times(0, 1, method.nodes, y)[0]
    carry: Carry = method.begin(terms, torch.full((), s, dtype=y.real.dtype, device=y.device), y)
    y1, _, error = method.step(terms, times, t - s, y, derived, carry)
    return y1, error


@torch.no_grad()
def choose_steps(
    method: Method,
    terms: Terms,
    tree: BrownianTree,
    y: Tensor,
    stops: Sequence[float],
    jumps: Sequence[float],
    control: Control,
) -> Found:
    """Find a grid whose local errors stay within tolerance for every sample; lands on every stop.

    One value is read by the host for each attempt.
    """
    kinks = frozenset(jumps)
    order = method.strong + 0.5
    t, h, previous = stops[0], min(control.dt0, stops[-1] - stops[0]), 1.0
    nodes, rejected, attempts, target = [t], 0, 0, 1
    while target < len(stops):
        if attempts >= control.max_steps:
            return Found(nodes, rejected, attempts, False, True)
        attempts += 1
        last = t + h >= stops[target] - 1e-9 * (stops[target] - t)
        size = stops[target] - t if last else h
        y1, error = _attempt(method, terms, tree, t, size, y, kinks)
        scale = control.atol + control.rtol * torch.maximum(y.abs(), y1.abs())
        ratio = (error / scale).abs().square().flatten(1).mean(1).sqrt().amax().item()
        if not ratio < float("inf"):
            factor, accept = SHRINK, False
        else:
            safe = max(ratio, 1e-10)
            factor = SAFETY * safe ** (-(PROPORTIONAL + INTEGRAL) / order) * previous ** (PROPORTIONAL / order)
            accept = ratio <= 1.0
            factor = min(GROW, max(1.0, factor)) if accept else max(SHRINK, min(SAFETY, factor))
        if accept:
            t = stops[target] if last else t + size
            nodes.append(t)
            y, previous = y1, max(ratio, 1e-4)
            target += last
            h = size * factor if not last or factor < 1.0 else max(h, size * factor)
        else:
            rejected += 1
            if size <= control.dt_min:
                return Found(nodes, rejected, attempts, True, False)
            h = max(size * factor, control.dt_min)
    return Found(nodes, rejected, attempts, False, False)
