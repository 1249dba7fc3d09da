"""What a simulation of a jump process returns, and how each trajectory ended."""

from __future__ import annotations

import enum
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from scidyn.errors import ShapeError, SolverError, SolverWarning

if TYPE_CHECKING:
    import xarray as xr

__all__ = ["JumpSolution", "JumpStatus", "Output", "report_failures"]


class JumpStatus(enum.IntEnum):
    """Outcome of one trajectory of a jump process.

    Attributes
    ----------
    sentence : str
        What happened.
    cure : str
        What to do about it; empty for a success.

    Examples
    --------
    >>> from scidyn.solvers import JumpStatus
    >>> JumpStatus.MAX_JUMPS.sentence
    'the largest number of jumps was reached'
    """

    RUNNING = 0, "the simulation has not finished", ""
    SUCCESS = 1, "the last time was reached", ""
    ABSORBED = 2, "a state that nothing leaves was reached; it holds to the last time", ""
    MAX_JUMPS = (
        3,
        "the largest number of jumps was reached",
        "raise max_jumps, shorten the time span, or use simulate_tau_leaping",
    )
    BAD_PROPENSITY = (
        4,
        "a propensity is negative, NaN or infinite",
        "check the propensity function and its parameters at this state",
    )
    NEGATIVE_COUNT = (
        5,
        "a reaction fired without molecules to consume",
        "make the propensity zero where a reactant is missing",
    )

    sentence: str
    cure: str

    def __new__(cls, code: int, sentence: str, cure: str) -> JumpStatus:
        """Make a member whose integer value is ``code``."""
        member = int.__new__(cls, code)
        member._value_ = code
        member.sentence = sentence
        member.cure = cure
        return member

    @classmethod
    def of(cls, code: int) -> JumpStatus:
        """Return the member whose integer value is ``code``."""
        return next(member for member in cls if member == code)

    @property
    def success(self) -> bool:
        """True if the trajectory is known up to the last time."""
        return self in {JumpStatus.SUCCESS, JumpStatus.ABSORBED}


@dataclass(frozen=True)
class JumpSolution:
    """Trajectories of a jump process at the requested times.

    Attributes
    ----------
    t : Tensor, shape (T,)
        Times.
    x : Tensor, shape (B, T, S) of float64, or (B, T) of int64
        Molecules of each species, NaN where a trajectory did not get; or the index of the
        state of a :class:`~scidyn.solvers.RateMatrix`, -1 where a trajectory did not get.
    status : Tensor of int8, shape (B,)
        A :class:`JumpStatus` for each trajectory.
    n_jumps : Tensor of int64, shape (B,)
        Jumps (tau-leaping: accepted leaps) of each trajectory.
    jump_times : Tensor, shape (B, J), or None
        Times of all jumps, NaN at the end of rows with fewer; only if recorded.
    channels : Tensor of int64, shape (B, J), or None
        The reaction that fired, or the state jumped to; -1 at the end of rows with fewer.
    """

    t: Tensor
    x: Tensor
    status: Tensor
    n_jumps: Tensor
    jump_times: Tensor | None = None
    channels: Tensor | None = None

    @property
    def success(self) -> bool:
        """True if all trajectories are known up to the last time."""
        return all(JumpStatus.of(code).success for code in self.status.unique().tolist())

    def to_xarray(
        self, *, species: Sequence[str] | None = None, units: str = "molecule", time_units: str = "s"
    ) -> xr.Dataset:
        """Return counts as a Dataset of trajectories, one variable per species.

        Parameters
        ----------
        species : sequence of str, optional
            Names; default ``x0, x1, …``.
        units, time_units : str
            Stored as attributes.

        Returns
        -------
        xarray.Dataset
            Dims ``(trajectory, time)``.

        Raises
        ------
        scidyn.errors.ShapeError
            If ``species`` does not name every column.

        Examples
        --------
        >>> import torch
        >>> from scidyn.solvers import ReactionNetwork, simulate_ssa
        >>> decay = ReactionNetwork.parse({"A -> 0": 1.0})
        >>> sol = simulate_ssa(decay, torch.tensor([50.0]), torch.linspace(0, 1, 3), trajectories=2, seed=0)
        >>> dict(sol.to_xarray(species=decay.species).sizes)
        {'trajectory': 2, 'time': 3}
        """
        import xarray as xr

        x = self.x.unsqueeze(-1) if self.x.ndim == 2 else self.x
        names = [f"x{k}" for k in range(x.shape[-1])] if species is None else list(species)
        if len(names) != x.shape[-1]:
            raise ShapeError(f"species must name {x.shape[-1]} columns; got {len(names)} names.")
        values = x.detach().cpu().numpy()
        dims = ("trajectory", "time")
        variables = {n: (dims, values[..., k], {"units": units}) for k, n in enumerate(names)}
        time = ("time", self.t.detach().cpu().numpy(), {"units": time_units})
        return xr.Dataset(variables, coords={"time": time}, attrs={"scidyn_kind": "trajectories"})


def report_failures(solution: JumpSolution, reached: Tensor, on_failure: str) -> JumpSolution:
    """Raise or warn about trajectories that did not finish, naming up to five of them."""
    if on_failure == "return" or solution.success:
        return solution
    codes = solution.status.tolist()
    failed = [k for k, code in enumerate(codes) if not JumpStatus.of(code).success]
    worst = JumpStatus.of(codes[failed[0]])
    listed = ", ".join(f"{k} (t={float(reached[k]):.4g})" for k in failed[:5])
    more = f" and {len(failed) - 5} more" if len(failed) > 5 else ""
    message = (
        f"{len(failed)} of {len(codes)} trajectories stopped early, trajectory {listed}{more}: "
        f"{worst.sentence}; {worst.cure}."
    )
    if on_failure == "raise":
        raise SolverError(message, solution)
    warnings.warn(message, SolverWarning, stacklevel=3)
    return solution


class Output:
    """Where a simulator writes: states at the requested times, and how each trajectory ended.

    A jump process is constant between jumps, so only the first requested time after a jump is
    written; :meth:`result` holds entries forward.
    """

    def __init__(self, x0: Tensor, times: Tensor) -> None:
        rows, length = len(x0), len(times)
        self.length = length
        # one column more than asked for takes the writes that belong nowhere
        self.x = torch.zeros(rows, length + 1, *x0.shape[1:], dtype=x0.dtype, device=x0.device)
        self.written = torch.zeros(rows, length + 1, dtype=torch.bool, device=x0.device)
        self.covered = torch.zeros(rows, dtype=torch.long, device=x0.device)
        self.status = torch.zeros(rows, dtype=torch.int8, device=x0.device)
        self.n_jumps = torch.zeros(rows, dtype=torch.long, device=x0.device)
        self.reached = times[0].expand(rows).clone()

    def write(self, row: Tensor, start: Tensor, stop: Tensor, x: Tensor) -> None:
        """Note that rows ``row`` have the states ``x`` at the requested times start … stop - 1."""
        column = torch.where(stop > start, start, torch.full_like(start, self.length))
        self.x[row, column] = x
        self.written[row, column] = True
        self.covered[row] = torch.where(stop > start, stop, self.covered[row])

    def finish(self, row: Tensor, which: Tensor, status: Tensor | int, t: Tensor) -> None:
        """Set the status of the rows where ``which`` is True."""
        self.status[row] = torch.where(which, status, self.status[row]).to(torch.int8)
        self.reached[row] = torch.where(which, t, self.reached[row])

    def result(self) -> Tensor:
        """States at the requested times; NaN (counts) or -1 (indices) where a trajectory did not get."""
        written, x = self.written[:, : self.length], self.x[:, : self.length]
        place = torch.arange(self.length, device=x.device).expand_as(written)
        source = torch.where(written, place, -1).cummax(1).values.clamp_min(0)
        extra = [1] * (x.ndim - 2)
        held = x.gather(1, source.view(*source.shape, *extra).expand_as(x))
        lost = place >= self.covered.unsqueeze(1)
        missing = torch.nan if x.is_floating_point() else -1
        return torch.where(lost.view(*lost.shape, *extra), torch.full_like(held, missing), held)
