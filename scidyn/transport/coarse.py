"""Start a large problem from the solution of a small sample of it.

The slow modes of Sinkhorn's iteration are smooth, and a sample of the points already fixes them. The sample is
solved (through a smaller sample of its own), and its potentials are carried to all points by one soft minimum.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.transport.fixed_point import iterate
from scidyn.transport.kernel import StoredKernel, soft_minimum
from scidyn.transport.problem import Problem

__all__ = ["starting_potential"]

SMALLEST = 512
LARGEST = 6000
SHRINK = 8
LOOSE = 1e-2
SWEEPS = 60
ANNEALING = 0.2


def starting_potential(problem: Problem, scale: float, generator: torch.Generator) -> tuple[Tensor, int]:
    """ψ near the solution, and the sweeps of the sample that it took.

    ``scale`` is a typical cost, from which ε is lowered in the smallest sample.
    """
    n, m = problem.cost.shape
    if max(n, m) <= SMALLEST:
        return _annealed(problem, scale)
    sample, rows = _sample(problem, generator)
    start, sweeps = starting_potential(sample, scale, generator)
    done = iterate(StoredKernel(sample), sample, start, tolerance=LOOSE, max_sweeps=SWEEPS)
    outward = Problem(problem.cost.take(rows, None).T, problem.b, sample.a, problem.epsilon, problem.tau_b)
    return soft_minimum(outward, done.phi), sweeps + done.sweeps


def _sample(problem: Problem, generator: torch.Generator) -> tuple[Problem, Tensor]:
    """An eighth of the points, drawn by weight, as a problem of its own; and the rows it holds."""
    indices, weights = [], []
    for given in (problem.a, problem.b):
        count = min(len(given), max(SMALLEST // 2, min(len(given) // SHRINK, LARGEST)))
        order = torch.randperm(len(given), generator=generator).to(given.device)
        ladder = given[order].cumsum(0)
        steps = (torch.arange(count, dtype=given.dtype, device=given.device) + 0.5) * (ladder[-1] / count)
        indices.append(order[torch.searchsorted(ladder, steps).clamp_max(len(given) - 1)])
        weights.append(torch.full_like(steps, 1.0) * (ladder[-1] / count))
    cost = problem.cost.take(*indices)
    return Problem(cost, *weights, problem.epsilon, problem.tau_a, problem.tau_b), indices[0]


def _annealed(problem: Problem, scale: float) -> tuple[Tensor, int]:
    """Solve loosely at ε = 0.2 of the typical cost, then at a fifth of it, and so on to just above the ε wanted."""
    psi = torch.zeros_like(problem.b)
    epsilon, sweeps = ANNEALING * scale, 0
    while epsilon > problem.epsilon * 1.5:
        easier = problem.at(epsilon)
        done = iterate(StoredKernel(easier), easier, psi, tolerance=LOOSE, max_sweeps=SWEEPS)
        lower = max(epsilon * ANNEALING, problem.epsilon)
        psi, epsilon, sweeps = done.psi * (epsilon / lower), lower, sweeps + done.sweeps
    return psi, sweeps
