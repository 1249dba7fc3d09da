"""Approximate simulation of reaction networks by leaps over many reactions."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, integer, number
from scidyn.errors import OptionError
from scidyn.solvers.ctmc.leap_step import LeapBound
from scidyn.solvers.ctmc.process import check_times, generator_on
from scidyn.solvers.ctmc.rates import RateMatrix
from scidyn.solvers.ctmc.reaction_network import ReactionNetwork
from scidyn.solvers.ctmc.solution import JumpSolution, JumpStatus, Output, report_failures

__all__ = ["simulate_tau_leaping"]

CHUNK = 16  # leaps between two looks at whether anything still runs
EXACT_BELOW = 10.0  # leaps of fewer expected reactions than this are replaced by single reactions


def simulate_tau_leaping(
    network: ReactionNetwork | RateMatrix,
    x0: Tensor,
    t: Tensor,
    *,
    dt: float | None = None,
    epsilon: float = 0.03,
    critical_count: int = 10,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    trajectories: int | None = None,
    max_leaps: int = 1_000_000,
    on_failure: str = "raise",
) -> JumpSolution:
    """Draw approximate trajectories of a reaction network, many reactions per step.

    Over a leap τ in which the propensities hardly change, reaction r fires a Poisson number
    of times::

        x(t + τ) = x(t) + Σ_r ν_r Poisson(a_r(x) τ)

    The step is the largest for which the expected change of every propensity and its standard
    deviation stay below ``epsilon`` of it; reactions that might run out of molecules fire one
    at a time, and where a leap would hold fewer than ten reactions the exact method is used.
    A leap that would make a count negative is drawn again at half the length.

    Parameters
    ----------
    network : ReactionNetwork or RateMatrix
        What reacts; a RateMatrix is read as independent molecules walking on its states.
    x0 : Tensor, shape (S,) or (B, S)
        Initial counts in molecules.
    t : Tensor, shape (T,)
        Strictly increasing times; ``x0`` holds at ``t[0]``. Leaps end exactly on them.
    dt : float, optional
        Fixed leap > 0 in place of the selection (for convergence studies).
    epsilon : float
        Relative change allowed, in (0, 1); 0.03 is the usual value.
    critical_count : int
        Firings within which a reaction could exhaust a reactant to be handled singly.
    seed : int, optional
        Seed of a fresh generator; give this or ``generator``.
    generator : torch.Generator, optional
        Source of randomness, on the device of the network.
    trajectories : int, optional
        Number of independent trajectories from a single ``x0``.
    max_leaps : int
        Largest number of leaps.
    on_failure : {"raise", "warn", "return"}
        What to do if a trajectory does not reach the last time.

    Returns
    -------
    JumpSolution
        ``x`` of shape (B, T, S); ``n_jumps`` counts leaps.

    Raises
    ------
    scidyn.errors.OptionError
        If ``dt`` or ``epsilon`` is not positive, a count is negative, or no seed is given.
    scidyn.errors.SolverError
        If a trajectory stopped early and ``on_failure="raise"``.

    Notes
    -----
    The bias of means is of first order in the leap. Stiff networks (fast reversible
    reactions) force short leaps: use ``simulate_ssa`` there.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import ReactionNetwork, simulate_tau_leaping
    >>> network = ReactionNetwork.parse({"0 -> A": 1000.0, "A -> 0": 1.0})
    >>> t = torch.linspace(0.0, 8.0, 3, dtype=torch.float64)
    >>> sol = simulate_tau_leaping(network, torch.zeros(1), t, trajectories=400, seed=0)
    >>> abs(float(sol.x[:, -1].mean()) - 1000.0) < 6.0
    True

    References
    ----------
    Y. Cao, D. T. Gillespie, L. R. Petzold (2006), Efficient step size selection for the
    tau-leaping simulation method, J. Chem. Phys. 124.
    """
    choice("on_failure", on_failure, ("raise", "warn", "return"))
    limit = integer("max_leaps", max_leaps, at_least=1)
    fixed = None if dt is None else number("dt", dt, above=0.0)
    net = network.as_network() if isinstance(network, RateMatrix) else network
    if not isinstance(net, ReactionNetwork):
        raise OptionError(f"network must be a ReactionNetwork or a RateMatrix; got {type(net).__name__}.")
    few = float(integer("critical_count", critical_count, at_least=0))
    bound = LeapBound.of(net, number("epsilon", epsilon, above=0.0, below=1.0), few)
    x = net.start(x0, trajectories)
    times = check_times(t).to(x.device)
    source = generator_on(x.device, seed, generator)
    out = Output(x, times)
    rows = torch.arange(len(x), device=x.device)
    with torch.no_grad():
        pointer = torch.ones_like(rows)
        out.write(rows, torch.zeros_like(rows), pointer, x)
        run = _Running(rows, times[0].expand(len(x)).clone(), x, pointer, torch.full_like(out.reached, torch.inf))
        done = 0
        while len(run.row) and done < limit:
            for _ in range(min(CHUNK, limit - done)):
                run = _leap(net, bound, fixed, run, times, out, source)
                done += 1
            active = out.status[run.row] == int(JumpStatus.RUNNING)
            if 2 * int(active.sum()) <= len(active):
                left = active.nonzero().squeeze(1)
                run = _Running(*(part[left] for part in run))
        out.status[run.row] = int(JumpStatus.MAX_JUMPS)
        out.reached[run.row] = run.t
    solution = JumpSolution(t, out.result(), out.status, out.n_jumps)
    return report_failures(solution, out.reached, on_failure)


class _Running(NamedTuple):
    """The trajectories still running; ``cap`` shortens the next leap after a rejected one."""

    row: Tensor
    t: Tensor
    x: Tensor
    pointer: Tensor
    cap: Tensor


def _choose(
    bound: LeapBound, fixed: float | None, run: _Running, rates: Tensor, draw: Tensor
) -> tuple[Tensor, Tensor, Tensor]:
    """Length of the leap, reactions that fire singly (B, R), and when the next of those is due."""
    total = rates.sum(-1)
    if fixed is None:
        single = bound.critical(run.x, rates)
        leap = torch.minimum(bound.leap(run.x, rates, single), run.cap)
        exact = leap < EXACT_BELOW / total
        single = single | exact.unsqueeze(-1)
        leap = torch.where(exact, torch.inf, leap)
    else:
        single = torch.zeros_like(rates, dtype=torch.bool)
        leap = run.cap.clamp_max(fixed)
    due = -torch.log1p(-draw) / torch.where(single, rates, 0.0).sum(-1)
    return leap, single, torch.where(torch.isnan(due), torch.inf, due)


def _leap(
    network: ReactionNetwork,
    bound: LeapBound,
    fixed: float | None,
    run: _Running,
    times: Tensor,
    out: Output,
    source: torch.Generator,
) -> _Running:
    """One leap of every running trajectory; finished and failed ones stand still."""
    length = len(times)
    rates = network.propensities(run.x).to(times.dtype)
    sound = ((rates >= 0) & torch.isfinite(rates)).all(-1)
    waits = run.pointer < length
    failed, broken = waits & ~sound, waits & sound & bound.starved(run.x, rates)
    alive = waits & ~failed & ~broken
    rates = torch.where(alive.unsqueeze(-1), rates, 0.0)
    draw = torch.rand(2, len(rates), generator=source, dtype=times.dtype, device=times.device)
    leap, single, due = _choose(bound, fixed, run, rates, draw[0])
    left = times[run.pointer.clamp_max(length - 1)] - run.t
    tau = torch.minimum(torch.minimum(leap, due), left).clamp_min(0.0)
    fires = (due <= leap) & (due < left)
    firings = torch.poisson(torch.where(single, 0.0, rates) * tau.unsqueeze(-1), generator=source)
    heap = torch.where(single, rates, 0.0).cumsum(-1)
    pick = torch.searchsorted(heap, (draw[1] * heap[:, -1]).unsqueeze(-1), right=True)
    one = torch.zeros_like(firings).scatter_(1, pick.clamp_max(heap.shape[-1] - 1), 1.0)
    firings = firings + torch.where(fires.unsqueeze(-1), one, 0.0)
    moved = run.x + firings @ network.stoichiometry
    negative = (moved < 0).any(-1)
    takes = alive & ~negative
    arrives = takes & (tau == left)
    stop = run.pointer + arrives.long()
    x = torch.where(takes.unsqueeze(-1), moved, run.x)
    out.write(run.row, run.pointer, stop, x)
    out.n_jumps.index_add_(0, run.row, takes.long())
    t = torch.where(arrives, times[run.pointer.clamp_max(length - 1)], run.t + torch.where(takes, tau, 0.0))
    out.finish(run.row, arrives & (stop == length), int(JumpStatus.SUCCESS), t)
    out.finish(run.row, failed, int(JumpStatus.BAD_PROPENSITY), t)
    out.finish(run.row, broken, int(JumpStatus.NEGATIVE_COUNT), t)
    pointer = torch.where(failed | broken, torch.full_like(stop, length), stop)
    cap = torch.where(alive & negative, 0.5 * tau, torch.full_like(tau, torch.inf))
    return _Running(run.row, t, x, pointer, cap)
