"""How far apart the path laws of two jump processes are: exact, and estimated from trajectories."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from scidyn._check.values import integer, number
from scidyn.errors import OptionError, ShapeError
from scidyn.solvers.ctmc.process import JumpProcess
from scidyn.solvers.ctmc.rates import RateMatrix
from scidyn.solvers.ctmc.solution import JumpSolution

__all__ = ["path_kl", "path_kl_estimate", "path_log_ratio", "rate_kl"]

Rates = RateMatrix | Callable[[Tensor], Tensor]


def rate_kl(p: Tensor, q: Tensor) -> Tensor:
    """Divergence of two Poisson processes per unit of time, ``Σ_r p_r log(p_r / q_r) - p_r + q_r``.

    Parameters
    ----------
    p, q : Tensor, shape (*batch, R)
        Rates ≥ 0 of the same channels.

    Returns
    -------
    Tensor, shape (*batch,)
        Non-negative, zero only where ``p == q``; infinite where p jumps and q cannot.

    Raises
    ------
    scidyn.errors.ShapeError
        If the shapes differ.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import rate_kl
    >>> rate_kl(torch.tensor([2.0, 0.0]), torch.tensor([1.0, 3.0]))
    tensor(3.3863)
    """
    if p.shape != q.shape:
        raise ShapeError(f"p and q must have one shape; got {tuple(p.shape)} and {tuple(q.shape)}.")
    # xlogy(p, 0 / 0) would be NaN: rates of zero enter through the last two terms only
    ratio = torch.where(p > 0, p, 1.0) / torch.where(p > 0, q, 1.0)
    return (p * torch.log(ratio) - p + q).sum(-1)


def path_kl(p: Rates, q: Rates, p0: Tensor, t: float, *, q0: Tensor | None = None, steps: int = 200) -> Tensor:
    """Divergence KL(P ‖ Q) of the laws on paths over [0, t] of two chains on the same states.

    With ``p(s)`` the marginal law under P::

        KL = Σ_i p0_i log(p0_i / q0_i) + ∫_0^t Σ_i p_i(s) Σ_j≠i [P_ij log(P_ij / Q_ij) - P_ij + Q_ij] ds

    For two rate matrices the integral is read off one matrix exponential, without quadrature.

    Parameters
    ----------
    p, q : RateMatrix, or callable ``s -> (S, S)``
        Rates of the two chains; a callable gives the rates at time s (its diagonal is ignored).
    p0 : Tensor, shape (S,)
        Initial probabilities under P.
    t : float
        Length > 0 of the paths.
    q0 : Tensor, shape (S,), optional
        Initial probabilities under Q; default ``p0``.
    steps : int
        Steps for time-dependent rates: a third-order exponential integrator.

    Returns
    -------
    Tensor, shape ()
        In nats; differentiable in the rates. Infinite if P makes jumps that Q cannot.

    Raises
    ------
    scidyn.errors.OptionError
        If ``t`` is not positive, or ``p0`` is not a probability vector.
    scidyn.errors.ShapeError
        If the chains differ in size.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import RateMatrix, path_kl
    >>> slow = RateMatrix.birth_death(torch.tensor([1.0]), torch.tensor([1.0]))
    >>> fast = RateMatrix.birth_death(torch.tensor([2.0]), torch.tensor([2.0]))
    >>> path_kl(slow, fast, torch.tensor([0.5, 0.5]), 3.0)      # 3 (log ½ - 1 + 2)
    tensor(0.9206)

    References
    ----------
    C. Kipnis, C. Landim (1999), Scaling Limits of Interacting Particle Systems, appendix 1, section 7.
    """
    length = number("t", t, above=0.0)
    first = p if isinstance(p, RateMatrix) else RateMatrix.from_rates(p(p0.new_zeros(())))
    start = first.distribution(p0)
    if isinstance(p, RateMatrix) and isinstance(q, RateMatrix):
        cost = _cost(p.off_diagonal, q.off_diagonal)
        divergence = _weigh(_occupation(p.Q, start, length), cost)
    else:
        divergence = _stepped(p, q, start, length, integer("steps", steps, at_least=1))
    if q0 is None:
        return divergence
    other = first.distribution(q0)
    ratio = torch.where(start > 0, start, 1.0) / torch.where(start > 0, other, 1.0)
    return divergence + (start * torch.log(ratio)).sum()


def _cost(p: Tensor, q: Tensor) -> Tensor:
    """Divergence rate of each state, shape (S,)."""
    if p.shape != q.shape:
        raise ShapeError(f"p and q must have the same states; got {p.shape[0]} and {q.shape[0]}.")
    return rate_kl(p, q.to(p))


def _weigh(law: Tensor, cost: Tensor) -> Tensor:
    """``Σ law · cost`` where states of probability zero count nothing, even at infinite cost."""
    return (law * torch.where(law > 0, cost, 0.0)).sum()


def _occupation(Q: Tensor, p0: Tensor, length: float) -> Tensor:
    """Expected time in each state, ``p0 ∫ exp(Q s) ds``, from the exponential of a doubled matrix."""
    size = len(p0)
    zero = torch.zeros_like(Q)
    doubled = torch.cat([torch.cat([Q, torch.eye(size).to(Q)], 1), torch.cat([zero, zero], 1)])
    return p0 @ torch.linalg.matrix_exp(length * doubled)[:size, size:]


def _rates_at(rates: Rates, s: Tensor) -> Tensor:
    """Jump rates at time ``s``, zero on the diagonal."""
    if isinstance(rates, RateMatrix):
        return rates.off_diagonal
    value = rates(s)
    return value - torch.diag(value.diagonal())


def _stepped(p: Rates, q: Rates, law: Tensor, length: float, steps: int) -> Tensor:
    """Divergence for time-dependent rates, by Gauss points and exponentials of the generator."""
    h = length / steps
    low, high = 0.5 - 3**0.5 / 6, 0.5 + 3**0.5 / 6
    heavy, light = 0.25 + 3**0.5 / 6, 0.25 - 3**0.5 / 6
    total = law.new_zeros(())
    for n in range(steps):
        nodes = [law.new_tensor((n + c) * h) for c in (low, high)]
        jumps = [_rates_at(p, s) for s in nodes]
        costs = [_cost(a, _rates_at(q, s)) for a, s in zip(jumps, nodes, strict=True)]
        one, two = (a - torch.diag(a.sum(-1)) for a in jumps)
        change = (two - one) / (high - low)
        for c, cost in zip((low, high), costs, strict=True):
            # the line through both generators, at the middle of [0, c h]
            middle = one + (0.5 * c - low) * change
            total = total + 0.5 * h * _weigh(law @ torch.linalg.matrix_exp(c * h * middle), cost)
        law = law @ torch.linalg.matrix_exp(h * (heavy * one + light * two))
        law = law @ torch.linalg.matrix_exp(h * (light * one + heavy * two))
    return total


def path_log_ratio(p: JumpProcess, q: JumpProcess, solution: JumpSolution) -> Tensor:
    """Log-likelihood ratio ``log dP/dQ`` of recorded trajectories, given their first states.

    For jumps in the channels ``r_k`` at times ``t_k`` from the states ``x_k``::

        log dP/dQ = Σ_k log(p_{r_k}(x_k) / q_{r_k}(x_k)) - ∫ Σ_r [p_r(x(s)) - q_r(x(s))] ds

    Parameters
    ----------
    p, q : RateMatrix or ReactionNetwork
        The two processes, with the same channels.
    solution : JumpSolution
        Simulated with ``record=True``, by either process.

    Returns
    -------
    Tensor, shape (B,)
        In nats; differentiable in the rates of both.

    Raises
    ------
    scidyn.errors.OptionError
        If the jumps were not recorded or a trajectory stopped early.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import RateMatrix, path_log_ratio, simulate_ssa
    >>> Q = RateMatrix.birth_death(torch.ones(2), torch.ones(2))
    >>> sol = simulate_ssa(Q, torch.tensor(0), torch.tensor([0.0, 5.0]), trajectories=3, seed=0, record=True)
    >>> path_log_ratio(Q, Q, sol)
    tensor([0., 0., 0.], dtype=torch.float64)
    """
    states, stay, channels = _path(p, solution)
    a, b = p.propensities(states), q.propensities(states)
    integral = (stay * (a - b).sum(-1)).sum(-1)
    jumped = channels >= 0
    index = channels.clamp_min(0).unsqueeze(-1)
    up = torch.where(jumped, a[:, :-1].gather(-1, index).squeeze(-1), 1.0)
    down = torch.where(jumped, b[:, :-1].gather(-1, index).squeeze(-1), 1.0)
    return (torch.log(up) - torch.log(down)).sum(-1) - integral


def path_kl_estimate(p: JumpProcess, q: JumpProcess, solution: JumpSolution) -> Tensor:
    """One unbiased estimate of KL(P ‖ Q) per recorded trajectory of P, given the first state.

    ``∫ Σ_r [p_r log(p_r / q_r) - p_r + q_r](x(s)) ds``: the same mean as :func:`path_log_ratio`
    with smaller variance, and never negative.

    Parameters
    ----------
    p, q : RateMatrix or ReactionNetwork
        The two processes, with the same channels.
    solution : JumpSolution
        Simulated by ``p`` with ``record=True``.

    Returns
    -------
    Tensor, shape (B,)
        Its mean estimates the divergence, its standard deviation over √B the error. The gradient in
        the rates of ``q`` is exact in the mean; that in the rates of ``p`` lacks the part through
        the law of the trajectories.

    Raises
    ------
    scidyn.errors.OptionError
        If the jumps were not recorded or a trajectory stopped early.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import ReactionNetwork, path_kl_estimate, simulate_ssa
    >>> p, q = (ReactionNetwork.parse({"0 -> A": k}) for k in (2.0, 1.0))
    >>> sol = simulate_ssa(p, torch.zeros(1), torch.tensor([0.0, 1.0]), trajectories=2, seed=0, record=True)
    >>> path_kl_estimate(p, q, sol)          # 2 log 2 - 1 on every path
    tensor([0.3863, 0.3863], dtype=torch.float64)
    """
    states, stay, _ = _path(p, solution)
    return (stay * rate_kl(p.propensities(states), q.propensities(states))).sum(-1)


def _path(process: JumpProcess, solution: JumpSolution) -> tuple[Tensor, Tensor, Tensor]:
    """States (B, J + 1, …), the time spent in each (B, J + 1), and channels (B, J)."""
    if solution.jump_times is None or solution.channels is None:
        raise OptionError("the jumps of this solution were not recorded; simulate with record=True.")
    if not solution.success:
        raise OptionError("a trajectory of this solution stopped early, so its likelihood is unknown.")
    first, last = solution.t[0].item(), solution.t[-1].item()
    jumps = solution.jump_times
    edges = torch.cat(
        [
            jumps.new_full((len(jumps), 1), first),
            jumps.nan_to_num(nan=last),
            jumps.new_full((len(jumps), 1), last),
        ],
        dim=1,
    )
    return process.replay(solution.x[:, 0], solution.channels), edges.diff(dim=1), solution.channels
