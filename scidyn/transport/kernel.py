"""One pass over the kernel per iteration: from ψ, the optimal φ and the columns' log sums under it.

In units of ε, with weights a and b::

    φ_i = -τ_a log Σ_j b_j exp(ψ_j - C_ij / ε)          s_j = log Σ_i a_i exp(φ_i - C_ij / ε)

The next ψ is ``-τ_b s``. Exponents are clamped at -75 relative to the largest of their row: on processors
the exponential and every product with a subnormal float32 is slower by an order of magnitude, and entries
below ``exp(-75)`` carry no mass that float32 could show.
"""

from __future__ import annotations

import torch
from torch import Tensor

from scidyn.transport.cost import TILE, tiles
from scidyn.transport.problem import Problem

__all__ = ["StoredKernel", "StreamedKernel", "soft_minimum"]

FLOOR = -75.0
DRIFT = 20.0
CACHE = 3 << 22
"""A stored kernel beyond this many entries is swept in blocks of rows, so that it is read once per sweep."""


def _log_weights(weights: Tensor) -> Tensor:
    return weights.clamp_min(torch.finfo(weights.dtype).tiny).log()


def soft_minimum(problem: Problem, psi: Tensor) -> Tensor:
    """``φ_i = -τ_a log Σ_j b_j exp(ψ_j - C_ij / ε)`` for any ψ, tile by tile, in the log domain."""
    cost = problem.cost
    p, q = problem.offsets()
    bias = (psi + _log_weights(problem.b) - q).to(cost.dtype)
    logs = torch.empty_like(p)
    for rows in tiles(*cost.shape):
        part = torch.empty(rows.stop - rows.start, cost.shape[1], dtype=cost.dtype, device=cost.device)
        cost.fill(part, rows, bias, problem.epsilon)
        top = part.amax(1, keepdim=True)
        part.sub_(top).clamp_(min=FLOOR).exp_()
        logs[rows] = part.sum(1).to(p.dtype).log() + top.squeeze(1).to(p.dtype)
    return problem.tau_a * (p - logs)


class StreamedKernel:
    """Forms the kernel anew in every sweep; memory grows with n + m only."""

    rebuilds = 0

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.p, self.q = problem.offsets()
        self.log_b = _log_weights(problem.b)
        n, m = problem.cost.shape
        self.slices = tiles(n, m)
        rows = max(s.stop - s.start for s in self.slices)
        self.buffer = torch.empty(rows, m, dtype=problem.cost.dtype, device=problem.cost.device)

    def sweep(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Give φ and s; every exponential is taken relative to the largest of its row."""
        problem, cost = self.problem, self.problem.cost
        scaled = psi + self.log_b - self.q
        bias = scaled.to(cost.dtype)
        phi = torch.empty_like(self.p)
        columns = torch.zeros(cost.shape[1], dtype=cost.dtype, device=cost.device)
        size, tau = len(phi), problem.tau_a
        for rows in self.slices:
            part = cost.fill(self.buffer[: rows.stop - rows.start], rows, bias, problem.epsilon)
            top = part.amax(1, keepdim=True)
            part.sub_(top).clamp_(min=FLOOR).exp_()
            total = part.sum(1).to(phi.dtype)
            logs = total.log() + top.squeeze(1).to(phi.dtype) - self.p[rows]
            phi[rows] = -tau * logs
            factor = problem.a[rows] * size / total
            if tau < 1.0:
                factor = factor * torch.exp((1.0 - tau) * logs)
            columns.addmv_(part.T, factor.to(cost.dtype))
        # the tiles hold b exp(ψ - C/ε - row maximum), so the columns' sums still carry b exp(ψ)
        return phi, (columns.to(phi.dtype) / size).log() - psi - self.log_b

    def rows(self, psi: Tensor) -> Tensor:
        """Give φ alone."""
        return soft_minimum(self.problem, psi)


class StoredKernel:
    """Holds ``exp(ψ⁰ - C/ε - row maximum)`` and iterates with matrix–vector products.

    ψ⁰ is the dual potential when the kernel was last formed; it is formed again when ψ has moved by more
    than 20 from it, which keeps every factor within the range of float32.
    """

    def __init__(self, problem: Problem) -> None:
        self.problem = problem
        self.p, self.q = problem.offsets()
        n, m = problem.cost.shape
        cost = problem.cost
        self.kernel = torch.empty(n, m, dtype=cost.dtype, device=cost.device)
        self.top = torch.empty_like(self.p)
        self.anchor: Tensor | None = None
        self.rebuilds = 0
        whole = n * m <= CACHE or cost.device.type != "cpu"
        self.slices = [slice(0, n)] if whole else tiles(n, m, TILE)

    def _form(self, psi: Tensor) -> Tensor:
        """Form the kernel around ``psi``; every row's largest entry becomes 1."""
        cost = self.problem.cost
        bias = (psi - self.q).to(cost.dtype)
        for rows in tiles(*cost.shape):
            part = cost.fill(self.kernel[rows], rows, bias, self.problem.epsilon)
            top = part.amax(1, keepdim=True)
            part.sub_(top).clamp_(min=FLOOR).exp_()
            self.top[rows] = top.squeeze(1).to(self.top.dtype)
        self.anchor = psi
        self.rebuilds += 1
        return psi

    def _factor(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """ψ⁰ and ``b m exp(ψ - ψ⁰)``, after forming the kernel anew if ψ has gone far."""
        anchor = self.anchor
        if anchor is None or float((psi - anchor).abs().amax()) > DRIFT:
            anchor = self._form(psi)
        return anchor, (torch.exp(psi - anchor) * self.problem.b * len(psi)).to(self.kernel.dtype)

    def rows(self, psi: Tensor) -> Tensor:
        """Give φ alone."""
        _, v = self._factor(psi)
        sums = torch.mv(self.kernel, v).to(self.top.dtype)
        return -self.problem.tau_a * self._logs(sums, slice(0, len(sums)), len(psi))

    def sweep(self, psi: Tensor) -> tuple[Tensor, Tensor]:
        """Give φ and s."""
        problem, kernel = self.problem, self.kernel
        anchor, v = self._factor(psi)
        n, m = problem.cost.shape
        weights = problem.a * n
        total = torch.empty_like(self.top)
        columns = torch.zeros(m, dtype=kernel.dtype, device=kernel.device)
        for rows in self.slices:
            part = kernel[rows]
            sums = torch.mv(part, v).to(total.dtype)
            total[rows] = sums
            factor = weights[rows] / sums
            if problem.tau_a < 1.0:
                factor = factor * torch.exp((1.0 - problem.tau_a) * self._logs(sums, rows, m))
            columns.addmv_(part.T, factor.to(kernel.dtype))
        phi = -problem.tau_a * self._logs(total, slice(0, n), m)
        # factor holds a n / Σ_j K b m exp(ψ - ψ⁰); the columns' sums lack exp(-ψ⁰) of the kernel's anchor
        return phi, (columns.to(phi.dtype) * (m / n)).log() - anchor

    def _logs(self, sums: Tensor, rows: slice, m: int) -> Tensor:
        return (sums / m).log() + self.top[rows] - self.p[rows]
