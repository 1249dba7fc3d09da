"""Derivatives of what a plan gives, without differentiating through the iterations.

The value is a maximum over potentials, so its derivative is the partial one at fixed potentials. The potentials
satisfy ``Σ_j π_ij = a_i exp(-f_i / λ_a)`` and its mirror image, so theirs follow from one symmetric linear system

    [ r / τ_a    π     ] [p]     [f̄]
    [ πᵀ      c / τ_b  ] [q] = ε [ḡ],         C̄_ij = π_ij (p_i + q_j) / ε,

with r, c the marginals of π; it is solved by conjugate gradients on the second block.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from scidyn.transport.arguments import Inputs
from scidyn.transport.cost import EuclideanCost, MatrixCost, tiles
from scidyn.transport.plan_tiles import multiply, plan_tile
from scidyn.transport.problem import Problem

__all__ = ["apply_plan", "attach"]

STEPS = 500


def attach(problem: Problem, inputs: Inputs, phi: Tensor, psi: Tensor, value: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Give f, g and the value in the dtype of the kernel, connected to the graph of the inputs."""
    dtype, epsilon = problem.cost.dtype, problem.epsilon
    f, g = (phi * epsilon).to(dtype), (psi * epsilon).to(dtype)
    leaves = (inputs.x, inputs.y, inputs.matrix, inputs.a, inputs.b)
    if not (torch.is_grad_enabled() and any(t is not None and t.requires_grad for t in leaves)):
        return f, g, value.to(dtype)
    f, g = _Potentials.apply(*leaves, problem, phi, psi)
    return f, g, _Value.apply(*leaves, problem, phi, psi, value)


def pull_back(problem: Problem, phi: Tensor, psi: Tensor, left: Tensor, right: Tensor) -> tuple:
    """Carry ``C̄_ij = π_ij Σ_k left_ik right_jk`` to the points or the matrix: (x̄, ȳ, C̄), None where absent."""
    cost = problem.cost
    left, right = left.to(cost.dtype), right.to(cost.dtype)
    if isinstance(cost, MatrixCost):
        whole = torch.empty_like(cost.matrix)
        for rows in tiles(*cost.shape):
            torch.mul(plan_tile(problem, phi, psi, rows), left[rows] @ right.T, out=whole[rows])
        return None, None, whole
    x, y = cost.x, cost.y
    grad_x, grad_y = torch.empty_like(x), torch.zeros_like(y)
    for rows in tiles(*cost.shape):
        weights = plan_tile(problem, phi, psi, rows).mul_(left[rows] @ right.T)
        if isinstance(cost, EuclideanCost):
            distance = cost.tile(rows)
            weights = torch.where(distance > 0, weights / distance, 0.0)
        grad_x[rows] = weights.sum(1, keepdim=True) * x[rows] - weights @ y
        grad_y += weights.sum(0).unsqueeze(1) * y - weights.T @ x[rows]
    factor = 1.0 if isinstance(cost, EuclideanCost) else 2.0
    return factor * grad_x, factor * grad_y, None


class _Value(torch.autograd.Function):
    """The dual objective, with its partial derivatives at fixed potentials."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, c: Tensor, a: Tensor, b: Tensor, problem: Problem, phi: Tensor, psi: Tensor,
        value: Tensor,
    ) -> Tensor:  # fmt: skip
        ctx.problem, ctx.phi, ctx.psi = problem, phi, psi
        return value.to(problem.cost.dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        problem, phi, psi = ctx.problem, ctx.phi, ctx.psi
        n, m = problem.cost.shape
        left = grad.expand(n, 1)
        points = pull_back(problem, phi, psi, left, torch.ones(m, 1, dtype=grad.dtype, device=grad.device))
        grad_a = grad * problem.epsilon * (_marginal_price(phi, problem.tau_a) + problem.b.sum() - 1.0)
        grad_b = grad * problem.epsilon * (_marginal_price(psi, problem.tau_b) + problem.a.sum() - 1.0)
        return (*points, grad_a, grad_b, None, None, None, None)


def _marginal_price(potential: Tensor, tau: float) -> Tensor:
    """Derivative of the dual with respect to a weight, up to the constant of the total mass."""
    if tau == 1.0:
        return potential
    stiffness = tau / (1.0 - tau)
    return -(stiffness + 1.0) * torch.expm1(-potential / stiffness)


class _Potentials(torch.autograd.Function):
    """f and g, with derivatives by the implicit function theorem."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, c: Tensor, a: Tensor, b: Tensor, problem: Problem, phi: Tensor, psi: Tensor
    ) -> tuple[Tensor, Tensor]:
        ctx.problem, ctx.phi, ctx.psi = problem, phi, psi
        dtype = problem.cost.dtype
        return (phi * problem.epsilon).to(dtype), (psi * problem.epsilon).to(dtype)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_f: Tensor, grad_g: Tensor) -> tuple:
        problem, phi, psi = ctx.problem, ctx.phi, ctx.psi
        wide = problem.a.dtype
        p, q = _solve(problem, phi, psi, grad_f.to(wide), grad_g.to(wide))
        left = torch.stack([p, torch.ones_like(p)], 1) / problem.epsilon
        right = torch.stack([torch.ones_like(q), q], 1)
        points = pull_back(problem, phi, psi, left, right)
        tiny = torch.finfo(wide).tiny
        grad_a = -multiply(problem, phi, psi, q).to(wide) / problem.a.clamp_min(tiny)
        grad_b = -multiply(problem.T, psi, phi, p).to(wide) / problem.b.clamp_min(tiny)
        return (*points, grad_a, grad_b, None, None, None)


def _solve(problem: Problem, phi: Tensor, psi: Tensor, grad_f: Tensor, grad_g: Tensor) -> tuple[Tensor, Tensor]:
    """Solve the symmetric system of this module's head for p and q."""
    wide, epsilon = problem.a.dtype, problem.epsilon

    def forth(v: Tensor) -> Tensor:
        return multiply(problem, phi, psi, v).to(wide)

    def back(v: Tensor) -> Tensor:
        return multiply(problem.T, psi, phi, v).to(wide)

    tiny = torch.finfo(wide).tiny
    r = forth(torch.ones_like(problem.b)).clamp_min(tiny)
    c = back(torch.ones_like(problem.a)).clamp_min(tiny)
    if problem.balanced:
        # a constant moved from f to g changes nothing: take out what a gradient says about it
        excess = (grad_f.sum() - grad_g.sum()) / (r.sum() + c.sum())
        grad_f, grad_g = grad_f - excess * r, grad_g + excess * c
    diagonal = c / problem.tau_b
    right = epsilon * (grad_g - back(problem.tau_a * grad_f / r))

    def schur(q: Tensor) -> Tensor:
        return diagonal * q - back(problem.tau_a * forth(q) / r)

    floor = 1e2 * torch.finfo(problem.cost.dtype).eps
    q = _conjugate_gradients(schur, right, diagonal, floor, c if problem.balanced else None)
    return problem.tau_a * (epsilon * grad_f - forth(q)) / r, q


def _conjugate_gradients(
    operator: Any, right: Tensor, diagonal: Tensor, tolerance: float, null: Tensor | None
) -> Tensor:
    """Preconditioned conjugate gradients; with ``null``, in the complement of the constants."""

    def centred(v: Tensor) -> Tensor:
        return v if null is None else v - (null * v).sum() / null.sum()

    solution = torch.zeros_like(right)
    residual = right.clone()
    z = centred(residual / diagonal)
    direction, rho = z, (residual * z).sum()
    goal = tolerance**2 * rho
    for _ in range(STEPS):
        if not bool(rho > goal):
            break
        image = operator(direction)
        step = rho / (direction * image).sum()
        solution = solution + step * direction
        residual = residual - step * image
        z = centred(residual / diagonal)
        new = (residual * z).sum()
        direction, rho = z + (new / rho) * direction, new
    return solution


def apply_plan(problem: Problem, inputs: Inputs, f: Tensor, g: Tensor, v: Tensor) -> Tensor:
    """``π v``, differentiable in everything that the plan was made from, and in ``v``."""
    return _Apply.apply(inputs.x, inputs.y, inputs.matrix, inputs.a, inputs.b, f, g, v, problem)


class _Apply(torch.autograd.Function):
    """Product of the plan with a matrix, the potentials being inputs like the others."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, y: Tensor, c: Tensor, a: Tensor, b: Tensor, f: Tensor, g: Tensor, v: Tensor,
        problem: Problem,
    ) -> Tensor:  # fmt: skip
        wide = problem.a.dtype
        ctx.problem, ctx.phi, ctx.psi = problem, f.to(wide) / problem.epsilon, g.to(wide) / problem.epsilon
        out = multiply(problem, ctx.phi, ctx.psi, v)
        ctx.save_for_backward(v, out)
        return out

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad: Tensor) -> tuple:
        problem, phi, psi = ctx.problem, ctx.phi, ctx.psi
        v, out = ctx.saved_tensors
        back = multiply(problem.T, psi, phi, grad)
        grad2, v2, out2, back2 = (t.reshape(len(t), -1) for t in (grad, v.to(grad), out, back))
        points = pull_back(problem, phi, psi, -grad2 / problem.epsilon, v2)
        grad_f, grad_g = (grad2 * out2).sum(1), (back2 * v2).sum(1)
        tiny = torch.finfo(problem.a.dtype).tiny
        return (
            *points,
            grad_f / problem.a.clamp_min(tiny),
            grad_g / problem.b.clamp_min(tiny),
            grad_f / problem.epsilon,
            grad_g / problem.epsilon,
            back.to(v.dtype),
            None,
        )
