"""Exact simulation of jump processes, many trajectories at once (Gillespie's direct method)."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from scidyn._check.values import choice, integer
from scidyn.solvers.ctmc.process import JumpProcess, check_times, generator_on
from scidyn.solvers.ctmc.solution import JumpSolution, JumpStatus, Output, report_failures

__all__ = ["simulate_ssa"]

CHUNK = 32  # jumps between two looks at whether anything still runs


def simulate_ssa(
    process: JumpProcess,
    x0: Tensor,
    t: Tensor,
    *,
    seed: int | None = None,
    generator: torch.Generator | None = None,
    trajectories: int | None = None,
    max_jumps: int = 1_000_000,
    record: bool = False,
    on_failure: str = "raise",
) -> JumpSolution:
    """Draw exact trajectories of a continuous-time Markov chain.

    In state x the waiting time is exponential with rate ``a_0(x) = Σ_r a_r(x)`` and the next
    jump is channel r with probability ``a_r(x) / a_0(x)``. All trajectories jump together, so
    the cost is that of the longest one; finished ones are dropped as the run goes on.

    Parameters
    ----------
    process : ReactionNetwork or RateMatrix
        What jumps.
    x0 : Tensor, shape (S,) or (B, S) in molecules; for a RateMatrix () or (B,) state indices
        Initial states.
    t : Tensor, shape (T,)
        Strictly increasing times; ``x0`` holds at ``t[0]``.
    seed : int, optional
        Seed of a fresh generator; give this or ``generator``.
    generator : torch.Generator, optional
        Source of randomness, on the device of the process.
    trajectories : int, optional
        Number of independent trajectories from a single ``x0``.
    max_jumps : int
        Largest number of jumps of one trajectory.
    record : bool
        Also return all jump times and channels, which path likelihoods need.
    on_failure : {"raise", "warn", "return"}
        What to do if a trajectory does not reach the last time.

    Returns
    -------
    JumpSolution
        ``x`` of shape (B, T, S), or (B, T) for a RateMatrix.

    Raises
    ------
    scidyn.errors.OptionError
        If a count is negative or not whole, a state does not exist, or no seed is given.
    scidyn.errors.TimeGridError
        If the times do not increase strictly.
    scidyn.errors.SolverError
        If a trajectory stopped early and ``on_failure="raise"``.

    Notes
    -----
    Exact but slow where counts are large: one pass per jump. ``simulate_tau_leaping`` takes
    many jumps per pass.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import ReactionNetwork, simulate_ssa
    >>> network = ReactionNetwork.parse({"0 -> A": 10.0, "A -> 0": 1.0})
    >>> t = torch.linspace(0.0, 8.0, 5, dtype=torch.float64)
    >>> sol = simulate_ssa(network, torch.zeros(1), t, trajectories=2000, seed=0)
    >>> sol.x.shape, round(float(sol.x[:, -1].mean()))
    (torch.Size([2000, 5, 1]), 10)

    References
    ----------
    D. T. Gillespie (1977), Exact stochastic simulation of coupled chemical reactions, J. Phys. Chem. 81.
    """
    choice("on_failure", on_failure, ("raise", "warn", "return"))
    limit = integer("max_jumps", max_jumps, at_least=1)
    x = process.start(x0, trajectories)
    times = check_times(t).to(x.device)
    source = generator_on(x.device, seed, generator)
    out = Output(x, times)
    log: list[tuple[Tensor, Tensor, Tensor]] = []
    with torch.no_grad():
        run = _Running(
            row=torch.arange(len(x), device=x.device),
            t=times[0].expand(len(x)).clone(),
            x=x,
            pointer=torch.zeros(len(x), dtype=torch.long, device=x.device),
        )
        done = 0
        while len(run.row) and done < limit:
            for _ in range(min(CHUNK, limit - done)):
                run, jumped = _jump(process, run, times, out, source)
                done += 1
                if record:
                    log.append(jumped)
            run = _compacted(run, out)
        out.status[run.row] = int(JumpStatus.MAX_JUMPS)
        out.reached[run.row] = run.t
    jump_times, channels = _history(log, len(x), out.n_jumps) if record else (None, None)
    solution = JumpSolution(t, out.result(), out.status, out.n_jumps, jump_times, channels)
    return report_failures(solution, out.reached, on_failure)


class _Running(NamedTuple):
    """The trajectories still running: their rows, times, states and next output."""

    row: Tensor
    t: Tensor
    x: Tensor
    pointer: Tensor


def _jump(
    process: JumpProcess, run: _Running, times: Tensor, out: Output, source: torch.Generator
) -> tuple[_Running, tuple[Tensor, Tensor, Tensor]]:
    """One jump of every running trajectory; those that pass the last time or fail stand still."""
    rates = process.propensities(run.x).to(times.dtype)
    sound = ((rates >= 0) & torch.isfinite(rates)).all(-1)
    heap = torch.where(sound.unsqueeze(-1), rates, torch.zeros_like(rates)).cumsum(-1)
    total = heap[:, -1]
    draw = torch.rand(2, len(total), generator=source, dtype=times.dtype, device=times.device)
    after = run.t - torch.log1p(-draw[0]) / total
    after = torch.where(total > 0, after, torch.full_like(after, torch.inf))
    pointer = torch.searchsorted(times, after)
    alive = (run.pointer < len(times)) & sound
    pointer = torch.where(alive, pointer, run.pointer)
    out.write(run.row, run.pointer, pointer, run.x)
    ended = alive & (pointer == len(times))
    moves = alive & ~ended
    channel = torch.searchsorted(heap, (draw[1] * total).unsqueeze(-1), right=True).squeeze(-1)
    channel = channel.clamp_max(heap.shape[-1] - 1)
    fired = process.fire(run.x, channel)
    negative = moves & (fired < 0).reshape(len(fired), -1).any(-1)
    moves = moves & ~negative
    out.finish(run.row, ended, torch.where(total > 0, int(JumpStatus.SUCCESS), int(JumpStatus.ABSORBED)), run.t)
    waits = run.pointer < len(times)
    out.finish(run.row, waits & ~sound, int(JumpStatus.BAD_PROPENSITY), run.t)
    out.finish(run.row, negative, int(JumpStatus.NEGATIVE_COUNT), run.t)
    pointer = torch.where(negative | ~sound, torch.full_like(pointer, len(times)), pointer)
    out.n_jumps.index_add_(0, run.row, moves.long())
    mask = moves.reshape(-1, *([1] * (run.x.ndim - 1)))
    t_new = torch.where(moves, after, run.t)
    jumped = (
        run.row,
        torch.where(moves, after, torch.full_like(after, torch.nan)),
        torch.where(moves, channel, torch.full_like(channel, -1)),
    )
    return _Running(run.row, t_new, torch.where(mask, fired, run.x), pointer), jumped


def _compacted(run: _Running, out: Output) -> _Running:
    """Drop finished trajectories once they are half of those carried, or all of them."""
    active = out.status[run.row] == int(JumpStatus.RUNNING)
    count = int(active.sum())
    if 2 * count > len(active):
        return run
    left = active.nonzero().squeeze(1)  # the one further read
    return _Running(*(part[left] for part in run))


def _history(log: list[tuple[Tensor, Tensor, Tensor]], rows: int, n_jumps: Tensor) -> tuple[Tensor, Tensor]:
    """Jump times (B, J) and channels (B, J) from the log of passes, J the largest number of jumps."""
    width = int(n_jumps.max())
    times = torch.full((rows, width), torch.nan, dtype=torch.float64, device=n_jumps.device)
    channels = torch.full((rows, width), -1, dtype=torch.long, device=n_jumps.device)
    for k, (row, after, channel) in enumerate(log[:width]):
        times[row, k] = after
        channels[row, k] = channel
    return times, channels
