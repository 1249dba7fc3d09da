"""The accepted steps of a solve, and the gradient of a loss with respect to what they report."""

from __future__ import annotations

import itertools
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.methods.stepper import Method, pinned

__all__ = ["Cotangents", "Outer", "SharedCotangents", "Steps", "add", "distribute"]


class Steps(NamedTuple):
    """Accepted steps.

    Attributes
    ----------
    times : Tensor, shape (N + 1, 1 or batch)
        Start of each step, then the end of the last.
    size : Tensor, shape (N, 1 or batch)
        Step sizes; zero for a sample that did not move.
    states : Tensor, shape (N, batch, D)
        State at the start of each step.
    choice : Tensor, shape (N, batch), or None
        Formulas used, of a method that has several.
    """

    times: Tensor
    size: Tensor
    states: Tensor
    choice: Tensor | None = None

    def at_safe_states(self) -> Steps:
        """Put samples that do not move back to their first state, where f and its slopes are finite.

        Their gradients are zero, but zero times an infinite slope of f at the end of a failed
        sample would be NaN in the gradient of shared parameters. A sample that never moved takes
        the place of one that did.
        """
        if self.size.shape[1] == 1:
            return self
        moved = self.size > 0
        ever = moved.any(dim=0)
        rows = torch.arange(len(ever), device=ever.device)
        rows = torch.where(ever, rows, ever.to(torch.int8).argmax())
        states = torch.where(moved.unsqueeze(-1), self.states, self.states[0, rows])
        times = torch.where(moved, self.times[:-1], self.times[0, rows])
        return Steps(torch.cat([times, self.times[-1:]]), self.size, states, self.choice)

    def formula(self, method: Method, n: int) -> Method:
        """Give the method whose replay repeats step n."""
        return method if self.choice is None else pinned(method, self.choice[n])


class Cotangents(NamedTuple):
    """Gradient with respect to the states at nodes and to the polynomials of the steps.

    Attributes
    ----------
    nodes : Tensor, shape (N + 1, batch, D)
        Gradient at the ends of steps.
    inside : list of bool
        Whether any time is reported strictly inside each step.
    grad : Tensor, shape (batch * T, D)
        Gradient at the reported times, zero at those that are nodes.
    flat, theta, size : Tensor, shape (batch * T,)
        ``step * batch + sample``, position in the step, and its size, of each reported time.
    """

    nodes: Tensor
    inside: list[bool]
    grad: Tensor
    flat: Tensor
    theta: Tensor
    size: Tensor

    @classmethod
    def of(cls, steps: Steps, index: Tensor, theta: Tensor, grad: Tensor) -> Cotangents:
        """Distribute ``grad`` (batch, T, D) over nodes and steps."""
        count, (batch, wanted, width) = len(steps.size), grad.shape
        theta = torch.where(torch.isfinite(theta), theta, 0.0)
        index, theta = index.expand(batch, wanted), theta.expand(batch, wanted)
        size = steps.size.T.expand(batch, count).gather(1, index)
        rows = torch.arange(batch, device=grad.device).unsqueeze(1)
        at_end = theta >= 1.0
        nodes = grad.new_zeros(((count + 1) * batch, width))
        nodes.index_add_(0, ((index + at_end) * batch + rows).reshape(-1), grad.reshape(-1, width))
        interior = (theta > 0.0) & ~at_end & (size > 0)
        hits = torch.zeros(count, dtype=torch.int64, device=grad.device)
        hits.index_add_(0, index.reshape(-1), interior.reshape(-1).to(torch.int64))
        return cls(
            nodes.reshape(count + 1, batch, width),
            (hits > 0).tolist(),
            torch.where(interior.unsqueeze(-1), grad, 0.0).reshape(-1, width),
            (index * batch + rows).reshape(-1),
            theta.reshape(-1).to(grad.real.dtype),
            size.reshape(-1).to(grad.real.dtype),
        )

    def coef(self, n: int, powers: int) -> list[Tensor]:
        """Gradients with respect to the coefficients of step n."""
        return list(self.coefs(n, n + 1, powers)[0])

    def coefs(self, low: int, high: int, powers: int) -> Tensor:
        """Gradients with respect to the coefficients of steps low to high, shape (steps, powers, batch, D)."""
        batch, width = self.nodes.shape[1:]
        chosen = ((self.flat >= low * batch) & (self.flat < high * batch)).nonzero().squeeze(1)
        grad, theta, size = self.grad[chosen], self.theta[chosen], self.size[chosen]
        total = self.grad.new_zeros(((high - low) * batch, powers, width))
        weights = size.unsqueeze(1) * theta.unsqueeze(1).expand(-1, powers).cumprod(dim=1)
        total.index_add_(0, self.flat[chosen] - low * batch, weights.unsqueeze(-1) * grad.unsqueeze(1))
        return total.reshape(high - low, batch, powers, width).transpose(1, 2)


class SharedCotangents(NamedTuple):
    """The same for steps and times that all samples share.

    Attributes
    ----------
    nodes : Tensor, shape (N + 1, batch, D)
        Gradient at the ends of steps.
    inside : list of bool
        Whether any time is reported strictly inside each step.
    grad : Tensor, shape (T, batch * D)
        Gradient at the reported times.
    offset : Tensor, shape (T,)
        ``θ`` of each reported time.
    size : Tensor, shape (T,)
        Size of the step of each reported time.
    span : dict of int to tuple of int
        First and last + 1 of the reported times strictly inside a step.
    """

    nodes: Tensor
    inside: list[bool]
    grad: Tensor
    offset: Tensor
    size: Tensor
    span: dict[int, tuple[int, int]]

    @classmethod
    def of(cls, steps: Steps, index: Tensor, theta: Tensor, grad: Tensor) -> SharedCotangents:
        """Distribute ``grad`` (batch, T, D) over nodes and steps, with ``index`` and ``theta`` of shape (1, T)."""
        count, (batch, _, width) = len(steps.size), grad.shape
        rows = grad.transpose(0, 1).reshape(grad.shape[1], -1)
        nodes = grad.new_zeros((count + 1, rows.shape[1]))
        span: dict[int, tuple[int, int]] = {}
        begin = 0
        for n, group in itertools.groupby(zip(index[0].tolist(), theta[0].tolist(), strict=True), lambda x: x[0]):
            position = [x for _, x in group]
            low = begin + sum(x <= 0.0 for x in position)
            high, end = low + sum(0.0 < x < 1.0 for x in position), begin + len(position)
            if high > begin:
                nodes[n].add_(rows[begin:high].sum(dim=0))
            if end > high:
                nodes[n + 1].add_(rows[high:end].sum(dim=0))
            if high > low:
                span[n] = (low, high)
            begin = end
        inside = [n in span for n in range(count)]
        size = steps.size[index[0], 0]
        real = grad.real.dtype
        return cls(nodes.reshape(count + 1, batch, width), inside, rows, theta[0].to(real), size.to(real), span)

    def coef(self, n: int, powers: int) -> list[Tensor]:
        """Gradients with respect to the coefficients of step n."""
        return list(self.coefs(n, n + 1, powers)[0])

    def coefs(self, low: int, high: int, powers: int) -> Tensor:
        """Gradients with respect to the coefficients of steps low to high, shape (steps, powers, batch, D)."""
        order = torch.arange(1, powers + 1, device=self.offset.device)
        weights = (self.size.unsqueeze(1) * self.offset.unsqueeze(1) ** order).to(self.grad.dtype)
        parts = []
        for n in range(low, high):
            first, last = self.span.get(n, (0, 0))
            parts.append(weights[first:last].T @ self.grad[first:last])
        return torch.stack(parts).reshape(high - low, powers, *self.nodes.shape[1:])


Outer = Cotangents | SharedCotangents


def distribute(steps: Steps, index: Tensor, theta: Tensor, grad: Tensor) -> Outer:
    """Distribute the gradient (batch, T, D) of reported times over nodes and steps."""
    shared = index.shape[0] == 1 and steps.size.shape[1] == 1
    return (SharedCotangents if shared else Cotangents).of(steps, index, theta, grad)


def add(total: Tensor | None, new: Tensor | None) -> Tensor | None:
    """Sum of two gradients either of which may be absent."""
    if total is None or new is None:
        return new if total is None else total
    return total + new
