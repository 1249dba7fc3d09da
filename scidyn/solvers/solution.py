"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.events import EventRecord
from scidyn.solvers.status import Status

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.solvers.adjoint.regularisation import Regularization

__all__ = ["Solution", "Stats"]


@dataclass(frozen=True)
class Stats:
    """Work done by a solve.

    Attributes
    ----------
    n_steps, n_accepted, n_rejected : Tensor of int32, shape (batch,)
        Attempted, accepted and rejected steps of each sample.
    evaluations : int
        Calls of the vector field; each evaluates the whole batch.
    host_reads : int
        Values copied from the device to decide what to do next.
    reached : Tensor, shape (batch,)
        Time that each sample reached.
    """

    n_accepted: Tensor
    n_rejected: Tensor
    evaluations: int
    host_reads: int
    reached: Tensor

    @property
    def n_steps(self) -> Tensor:
        """Attempted steps of each sample."""
        return self.n_accepted + self.n_rejected


@dataclass(frozen=True)
class Solution:
    """A solved initial value problem.

    Attributes
    ----------
    t : Tensor, shape (time,) or (batch, time)
        The times asked for.
    y : Tensor, shape (batch, time, *state)
        States at those times; NaN where a sample did not arrive or its row is padded.
    status : tuple of Status
        One per sample.
    stats : Stats
        Steps, rejections, evaluations and host reads.
    events : EventRecord or None
        Time (batch,) and state (batch, *state) of each sample's event, NaN without one.
    regularization : Regularization or None
        With ``regularize=``: ``value`` to add to a loss, and ``error``, ``stiffness``, ``t``, ``h`` per step.

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_ode
    >>> solution = solve_ode(lambda t, y: -y, torch.ones(1, 1, dtype=torch.float64), [0.0, 1.0])
    >>> solution.success, solution.status[0].sentence
    (True, 'the last time was reached')
    """

    t: Tensor
    y: Tensor
    status: tuple[Status, ...]
    stats: Stats
    _interpolant: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    events: EventRecord | None = None
    regularization: Regularization | None = field(default=None, repr=False)

    @property
    def success(self) -> bool:
        """True if every sample reached its last time or a terminal event."""
        return all(s.success for s in set(self.status))

    def dense(self, t: Any) -> Tensor:
        """Evaluate the continuous extension at any times within the span.

        Parameters
        ----------
        t : array_like, shape (K,) or (batch, K)
            Times in any order.

        Returns
        -------
        Tensor, shape (batch, K, *state)
            States, of order 4 (tsit5, dopri5) or 3 (rk4) in the step size; NaN beyond the time that a
            failed sample reached. Without a graph.

        Raises
        ------
        scidyn.errors.OptionError
            If the problem was solved without ``dense=True``.
        scidyn.errors.TimeGridError
            If a time is outside the span of the solve.

        Examples
        --------
        >>> import torch
        >>> from scidyn.solvers import solve_ode
        >>> y0 = torch.ones(1, 1, dtype=torch.float64)
        >>> solution = solve_ode(lambda t, y: -y, y0, [0.0, 2.0], adjoint=None, dense=True)
        >>> round(solution.dense([1.0]).item(), 5)
        0.36788
        """
        if self._interpolant is None:
            raise OptionError("this Solution holds no polynomials; call solve_ode(..., dense=True).")
        times = torch.as_tensor(t, dtype=self.t.dtype, device=self.t.device)
        if times.ndim not in (1, 2):
            raise ShapeError(f"t must have shape (K,) or (batch, K); got {tuple(times.shape)}.")
        span = self.t.nan_to_num(nan=torch.inf).amin(), self.t.nan_to_num(nan=-torch.inf).amax()
        outside = ~((times >= span[0]) & (times <= span[1]))
        if bool(outside.any()):
            raise TimeGridError(
                f"dense output covers {span[0].item():g} to {span[1].item():g}; "
                f"{times[outside][0].item():g} is outside: solve over a longer span."
            )
        return self._interpolant(times)

    def to_dataset(
        self,
        names: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        time_units: str = "1",
    ) -> xr.Dataset:
        """Give the solution as a Dataset with one variable per state component.

        Parameters
        ----------
        names : sequence of str, optional
            Names of the components; default ``y0, y1, …``.
        units : sequence of str, optional
            Units of the components; default dimensionless ``"1"``.
        time_units : str
            Units of ``t``.

        Returns
        -------
        xarray.Dataset
            Dims ``trajectory, time``, or ``trajectory, obs`` with a coordinate ``time(trajectory, obs)``
            if each sample has its own times.

        Raises
        ------
        scidyn.errors.ShapeError
            If the state is not a vector, or the number of names or units differs from its length.

        Examples
        --------
        >>> import torch
        >>> from scidyn.solvers import solve_ode
        >>> y0 = torch.ones(1, 1, dtype=torch.float64)
        >>> solution = solve_ode(lambda t, y: -y, y0, [0.0, 1.0], adjoint=None)
        >>> dict(solution.to_dataset(["mass"], ["kg"], "s").sizes)
        {'trajectory': 1, 'time': 2}
        """
        import xarray as xr

        y = self.y.detach().cpu()
        y = y.unsqueeze(-1) if y.ndim == 2 else y
        if y.ndim != 3:
            raise ShapeError(f"to_dataset needs a state of shape (D,); this one has {tuple(y.shape[2:])}.")
        size = y.shape[-1]
        names = [f"y{i}" for i in range(size)] if names is None else list(names)
        units = ["1"] * size if units is None else list(units)
        for label, given in (("names", names), ("units", units)):
            if len(given) != size:
                raise ShapeError(f"the state has {size} components; got {len(given)} {label}: {given}.")
        irregular = self.t.ndim == 2
        dims = ("trajectory", "obs" if irregular else "time")
        variables = {
            name: (dims, y[..., i].numpy(), {"units": unit, "long_name": name})
            for i, (name, unit) in enumerate(zip(names, units, strict=True))
        }
        time = (dims if irregular else ("time",), self.t.detach().cpu().numpy(), {"units": time_units})
        kind = "irregular" if irregular else "trajectories"
        return xr.Dataset(variables, coords={"time": time}, attrs={"scidyn_kind": kind})
