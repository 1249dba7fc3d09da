"""Least squares by Levenberg–Marquardt with bounds, for one problem or many independent ones at once."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.tensors import finite
from scidyn._check.values import integer, number
from scidyn.errors import FitError, OptionError, ShapeError

__all__ = ["GaussNewtonResult", "gauss_newton"]

SINGULAR = 1e-13
LARGEST_DAMPING = 1e12


class GaussNewtonResult(NamedTuple):
    """Where a least-squares fit ended; a leading axis ``problem`` is there if ``start`` had one.

    Attributes
    ----------
    estimate : Tensor, shape (parameter,)
        Best parameters found.
    cost : Tensor, shape ()
        Objective at the estimate.
    residuals : Tensor, shape (residual,)
        Residuals at the estimate.
    jacobian : Tensor, shape (residual, parameter)
        Their derivative.
    covariance : Tensor, shape (parameter, parameter)
        ``N/(N − P) (Jᵀ W J)⁻¹`` with ``W`` the inverse of the estimated variances; zero for fixed
        parameters, infinite on the diagonal for parameters that the residuals do not determine.
    converged : Tensor of bool, shape ()
        True if the gradient or the step became negligible.
    iterations : Tensor of int, shape ()
        Steps tried.
    history : Tensor, shape (iteration,)
        Objective after each iteration; constant once a problem has ended.
    """

    estimate: Tensor
    cost: Tensor
    residuals: Tensor
    jacobian: Tensor
    covariance: Tensor
    converged: Tensor
    iterations: Tensor
    history: Tensor


class _Groups(NamedTuple):
    """Residuals that share an unknown variance: membership (G, N), counts (G,), smallest variance (G,)."""

    member: Tensor
    count: Tensor
    floor: Tensor


def gauss_newton(
    residuals: Callable[[Tensor], tuple[Tensor, Tensor]],
    start: Tensor,
    lower: Tensor | None = None,
    upper: Tensor | None = None,
    *,
    groups: Tensor | None = None,
    floor: float | Tensor = 1e-300,
    iterations: int = 100,
    tolerance: float = 1e-8,
    damping: float = 1e-3,
) -> GaussNewtonResult:
    r"""Minimise ``½ Σ r²``, or with ``groups`` the profile likelihood ``½ Σ_g n_g log(Σ_{i∈g} r_i²/n_g)``.

    Each step solves ``(Jᵀ W J + λ D) δ = −Jᵀ W r`` over the parameters that are not held by a bound,
    ``D`` the diagonal of ``Jᵀ W J``, and is taken if the objective falls.

    Parameters
    ----------
    residuals : callable
        ``theta -> (r, J)`` with ``theta`` (problem, parameter), ``r`` (problem, residual) and ``J``
        (problem, residual, parameter); without the axis ``problem`` if ``start`` has none. NaN in
        ``r`` marks a point that cannot be evaluated; it is not stepped to.
    start : Tensor, shape (parameter,) or (problem, parameter)
        Where to begin, inside the bounds.
    lower, upper : Tensor, shape of ``start`` or (parameter,), optional
        Bounds; equal bounds hold a parameter fixed.
    groups : Tensor of int, shape (residual,), optional
        Which residuals share an unknown noise variance.
    floor : float or Tensor, shape (group,)
        Smallest variance a group may have; needed where data can be met exactly.
    iterations : int
        Largest number of steps tried.
    tolerance : float
        A problem has converged when every column of ``J`` is orthogonal to ``r`` up to this cosine,
        or when a step changes the parameters by less than this.
    damping : float
        First ``λ``.

    Returns
    -------
    GaussNewtonResult

    Raises
    ------
    scidyn.errors.FitError
        If no problem can be evaluated at its start.
    scidyn.errors.OptionError
        If a lower bound lies above its upper bound.

    Examples
    --------
    >>> import torch
    >>> from scidyn.training import gauss_newton
    >>> x = torch.tensor([0.0, 1.0, 2.0], dtype=torch.float64)
    >>> y = torch.tensor([1.0, 3.0, 5.0], dtype=torch.float64)
    >>> def line(p):
    ...     return p[0] + p[1] * x - y, torch.stack([torch.ones_like(x), x], dim=-1)
    >>> [round(v, 6) for v in gauss_newton(line, torch.zeros(2, dtype=torch.float64)).estimate.tolist()]
    [1.0, 2.0]

    References
    ----------
    J. Nocedal, S. J. Wright, Numerical Optimization, chapter 10. H. B. Nielsen, Damping parameter in
    Marquardt's method, report IMM-REP-1999-05, 1999.
    """
    integer("iterations", iterations, at_least=0)
    number("tolerance", tolerance, above=0)
    number("damping", damping, above=0)
    single = start.ndim == 1
    theta = finite("start", start.detach()).reshape(-1, start.shape[-1]).clone()
    low, high = _bounds(theta, lower, upper)
    theta = theta.clamp(low, high)

    def evaluate(p: Tensor) -> tuple[Tensor, Tensor]:
        r, jacobian = residuals(p[0] if single else p)
        return (r.unsqueeze(0), jacobian.unsqueeze(0)) if single else (r, jacobian)

    r, jacobian = evaluate(theta)
    if jacobian.shape != (*r.shape, theta.shape[-1]) or r.shape[0] != theta.shape[0]:
        raise ShapeError(
            f"residuals returned r {tuple(r.shape)} and J {tuple(jacobian.shape)} for theta {tuple(theta.shape)}; "
            "needed: (problem, residual) and (problem, residual, parameter)."
        )
    grouping = _grouping(groups, floor, r)
    state = _minimise(evaluate, theta, r, jacobian, low, high, grouping, iterations, tolerance, damping)
    if not bool(torch.isfinite(state.cost).any()):
        raise FitError("The residuals are not finite at any start; start from other values.")
    return GaussNewtonResult(*(part[0] for part in state[:-1]), state.history[:, 0]) if single else state


def _bounds(theta: Tensor, lower: Tensor | None, upper: Tensor | None) -> tuple[Tensor, Tensor]:
    low = torch.full_like(theta, -torch.inf) if lower is None else lower.to(theta).expand_as(theta)
    high = torch.full_like(theta, torch.inf) if upper is None else upper.to(theta).expand_as(theta)
    crossed = low > high
    if bool(crossed.any()):
        where = int(crossed.any(dim=0).to(torch.uint8).argmax())
        raise OptionError(f"the lower bound of parameter {where} lies above its upper bound.")
    return low, high


def _grouping(groups: Tensor | None, floor: float | Tensor, r: Tensor) -> _Groups | None:
    if groups is None:
        return None
    if groups.shape != r.shape[1:]:
        raise ShapeError(f"groups has shape {tuple(groups.shape)}; one entry for each of {r.shape[1]} residuals.")
    member = torch.nn.functional.one_hot(groups.to(torch.int64)).T.to(r)
    smallest = torch.as_tensor(floor, dtype=r.dtype, device=r.device).expand(member.shape[0])
    return _Groups(member, member.sum(dim=1), smallest)


def _weigh(r: Tensor, groups: _Groups | None) -> tuple[Tensor, Tensor]:
    """Objective (K,) and the weight of each squared residual (K, N)."""
    square = r * r
    if groups is None:
        return torch.nan_to_num(0.5 * square.sum(dim=1), nan=torch.inf), torch.ones_like(r)
    variance = square @ groups.member.T / groups.count + groups.floor
    cost = 0.5 * (groups.count * variance.log()).sum(dim=1)
    return torch.nan_to_num(cost, nan=torch.inf), variance.reciprocal() @ groups.member


def _minimise(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]],
    theta: Tensor,
    r: Tensor,
    jacobian: Tensor,
    low: Tensor,
    high: Tensor,
    groups: _Groups | None,
    iterations: int,
    tolerance: float,
    damping: float,
) -> GaussNewtonResult:
    cost, weight = _weigh(r, groups)
    lam, growth = torch.full_like(cost, damping), torch.full_like(cost, 2.0)
    ended, converged = ~torch.isfinite(cost), torch.zeros_like(cost, dtype=torch.bool)
    tried = torch.zeros_like(cost, dtype=torch.int64)
    history = [cost]
    for _ in range(iterations):
        gradient, hessian, free = _normal_equations(theta, r, jacobian, weight, low, high)
        converged |= ~ended & _stationary(r, weight, gradient, hessian, free, tolerance)
        ended |= converged
        if bool(ended.all()):
            break
        move = (theta + _step(gradient, hessian, free, lam)).clamp(low, high) - theta
        active = ~ended
        new_r, new_jacobian = r.clone(), jacobian.clone()
        new_r[active], new_jacobian[active] = _evaluate_rows(evaluate, theta + move, active)
        new_cost, new_weight = _weigh(new_r, groups)
        predicted = -(gradient * move).sum(1) - 0.5 * torch.einsum("kp,kpq,kq->k", move, hessian, move)
        ratio = (cost - new_cost) / predicted.clamp_min(torch.finfo(cost.dtype).tiny)
        accept = active & (new_cost < cost) & (ratio > 1e-4)
        tiny = move.abs().amax(1) <= tolerance * 1e-2 * (1.0 + theta.abs().amax(1))
        converged |= active & tiny
        ended |= converged | (lam > LARGEST_DAMPING)
        lam = torch.where(accept, lam * (1 - (2 * ratio.clamp(0, 1) - 1) ** 3).clamp_min(1 / 10), lam * growth)
        lam = lam.clamp_min(1e-15)
        growth = torch.where(accept, 2.0, 2 * growth)
        theta = torch.where(accept[:, None], theta + move, theta)
        cost = torch.where(accept, new_cost, cost)
        r, weight = torch.where(accept[:, None], new_r, r), torch.where(accept[:, None], new_weight, weight)
        jacobian = torch.where(accept[:, None, None], new_jacobian, jacobian)
        tried += active
        history.append(cost)
    gradient, hessian, free = _normal_equations(theta, r, jacobian, weight, low, high)
    converged |= torch.isfinite(cost) & _stationary(r, weight, gradient, hessian, free, tolerance)
    covariance = _covariance(jacobian, weight, r, low < high, groups is None)
    return GaussNewtonResult(theta, cost, r, jacobian, covariance, converged, tried, torch.stack(history))


def _evaluate_rows(
    evaluate: Callable[[Tensor], tuple[Tensor, Tensor]], theta: Tensor, active: Tensor
) -> tuple[Tensor, Tensor]:
    """Evaluate the running problems only; their number may change from call to call."""
    r, jacobian = evaluate(theta if theta.shape[0] == 1 else theta[active])
    return r, torch.nan_to_num(jacobian, nan=0.0)


def _normal_equations(
    theta: Tensor, r: Tensor, jacobian: Tensor, weight: Tensor, low: Tensor, high: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient (K, P), Gauss–Newton Hessian (K, P, P), and which parameters no bound holds."""
    r, jacobian = torch.nan_to_num(r), torch.nan_to_num(jacobian)
    weighted = weight.nan_to_num().unsqueeze(-1) * jacobian
    gradient = torch.einsum("knp,kn->kp", weighted, r)
    hessian = weighted.transpose(1, 2) @ jacobian
    held = (low == high) | ((theta <= low) & (gradient > 0)) | ((theta >= high) & (gradient < 0))
    return gradient, hessian, ~held


def _stationary(
    r: Tensor, weight: Tensor, gradient: Tensor, hessian: Tensor, free: Tensor, tolerance: float
) -> Tensor:
    """True where every free column is orthogonal to the residuals up to the tolerance."""
    length = (weight * r * r).sum(dim=1).sqrt()
    column = torch.diagonal(hessian, dim1=1, dim2=2).sqrt()
    cosine = gradient.abs() / (column * length.unsqueeze(1)).clamp_min(torch.finfo(r.dtype).tiny)
    return torch.where(free, cosine, 0.0).amax(dim=1) <= tolerance


def _step(gradient: Tensor, hessian: Tensor, free: Tensor, lam: Tensor) -> Tensor:
    """Solve the damped normal equations over the free parameters, in coordinates of equal curvature."""
    diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
    scale = torch.where(free & (diagonal > 0), diagonal, 1.0).rsqrt()
    both = (free.unsqueeze(1) & free.unsqueeze(2)).to(hessian)
    matrix = hessian * scale.unsqueeze(1) * scale.unsqueeze(2) * both
    matrix = matrix + torch.diag_embed(lam.unsqueeze(1).expand_as(scale) + (~free).to(scale))
    solution, failed = torch.linalg.solve_ex(matrix, -(gradient * scale * free).unsqueeze(-1))
    step = solution.squeeze(-1) * scale * free
    return torch.where((failed == 0)[:, None] & torch.isfinite(step), step, 0.0)


def _covariance(jacobian: Tensor, weight: Tensor, r: Tensor, varies: Tensor, one_variance: bool) -> Tensor:
    """``N/(N − P) (Jᵀ W J)⁻¹`` over the parameters that are not fixed."""
    jacobian, weight, r = torch.nan_to_num(jacobian), torch.nan_to_num(weight), torch.nan_to_num(r)
    if one_variance:
        weight = r.shape[1] / (r * r).sum(1, keepdim=True).clamp_min(torch.finfo(r.dtype).tiny) * weight
    both = (varies.unsqueeze(1) & varies.unsqueeze(2)).to(jacobian)
    hessian = (jacobian * weight.unsqueeze(-1)).transpose(1, 2) @ jacobian * both
    diagonal = torch.diagonal(hessian, dim1=1, dim2=2)
    scale = torch.where(diagonal > 0, diagonal, 1.0).rsqrt()
    values, vectors = torch.linalg.eigh(hessian * scale.unsqueeze(1) * scale.unsqueeze(2))
    known = values > SINGULAR * values.amax(dim=1, keepdim=True).clamp_min(torch.finfo(r.dtype).tiny)
    inverse = (vectors * torch.where(known, values, torch.inf).reciprocal().unsqueeze(1)) @ vectors.transpose(1, 2)
    degrees = r.shape[1] - varies.sum(dim=1)
    factor = torch.where(degrees > 0, r.shape[1] / degrees.clamp_min(1), torch.nan).to(r)
    covariance = inverse * scale.unsqueeze(1) * scale.unsqueeze(2) * factor[:, None, None]
    # a direction without information makes every parameter that it moves unknown
    lost = ((vectors**2) * (~known).unsqueeze(1)).sum(dim=2) > 1e-6
    unknown = torch.diag_embed(torch.where(lost & varies, torch.inf, 0.0).to(r))
    return torch.where(unknown > 0, unknown, covariance)
