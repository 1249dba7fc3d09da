"""What a solve returns."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from scidyn.errors import OptionError, ShapeError, TimeGridError
from scidyn.solvers.status import Status

if TYPE_CHECKING:
    import xarray as xr

    from scidyn.solvers.penalties import Regularization

__all__ = ["Solution", "Stats"]


@dataclass(frozen=True)
class Stats:
    """Work done by a solve.

    Attributes
    ----------
    n_steps, n_accepted, n_rejected : Tensor of int32, shape (batch,)
        Attempted, accepted and rejected steps of each sample.
    nfe : int
        Calls of the vector field; each evaluates the whole batch.
    host_reads : int
        Values copied from the device to decide what to do next.
    reached : Tensor, shape (batch,)
        Time that each sample reached.
    n_jac, n_lu : Tensor of int32, shape (batch,), or None
        Jacobians and matrix factorisations of each sample, of an implicit method.
    graph_bytes : int
        Memory of the graphs kept for the gradient, counted in the first step; zero if steps are taken again.
    """

    n_accepted: Tensor
    n_rejected: Tensor
    nfe: int
    host_reads: int
    reached: Tensor
    n_jac: Tensor | None = None
    n_lu: Tensor | None = None
    graph_bytes: int = 0

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
        States at those times; NaN where a sample did not arrive or its row is padded. A dict, tuple or list of
        such tensors if ``y0`` was one.
    status : tuple of Status
        One per sample.
    stats : Stats
        Steps, rejections, evaluations and host reads.
    events : EventRecord, tuple of EventRecord, or None
        Crossings of the event that was given; one record for each if a sequence was.
    reg : Regularization or None
        With ``regularize=``: ``value`` to add to a loss, and ``error``, ``stiffness``, ``t``, ``h`` per step.
    valid : Tensor of bool or None
        What :attr:`mask` gives where it cannot be seen from ``y``.
    time_first : bool
        True if the first two axes of ``y`` are (time, batch).

    Examples
    --------
    >>> import torch
    >>> from scidyn.solvers import solve_ode
    >>> solution = solve_ode(lambda t, y: -y, torch.ones(1, 1, dtype=torch.float64), [0.0, 1.0])
    >>> solution.success, solution.status[0].sentence
    (True, 'the last time was reached')
    """

    t: Tensor
    y: Any
    status: tuple[Status, ...]
    stats: Stats
    _interpolant: Callable[[Tensor], Tensor] | None = field(default=None, repr=False)
    events: Any = None
    reg: Regularization | None = field(default=None, repr=False)
    _local: Callable[[str, str, str, torch.Generator], Tensor] | None = field(default=None, repr=False)
    valid: Tensor | None = field(default=None, repr=False)
    time_first: bool = False

    @property
    def success(self) -> bool:
        """True if every sample reached its last time or a terminal event."""
        return all(s.success for s in set(self.status))

    @property
    def mask(self) -> Tensor:
        """True where ``y`` holds a state, shape (batch, time): False where it is padded or was not reached."""
        if self.valid is not None:
            return self.valid
        leaves: list[Tensor] = pytree.tree_leaves(self.y)
        missing = [torch.isnan(leaf.detach()).reshape(*leaf.shape[:2], -1).all(dim=-1) for leaf in leaves]
        return ~torch.stack(missing).all(dim=0)

    def dense(self, t: Any) -> Any:
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

    def local_regulariser(
        self, kind: str = "error", when: str = "accepted", *, step: str = "accepted", generator: torch.Generator
    ) -> Tensor:
        """Measure one more step at a random time: a penalty on hard vector fields for any adjoint (LRNODE).

        The step starts from a state without gradient, so the gradient reaches the vector field through that
        step only. It starts at a random time of each sample, at one for all samples if they share their steps.

        Parameters
        ----------
        kind : str
            ``"error"`` (scaled error estimate times the step size) or ``"stiffness"``.
        when : str
            ``"accepted"``: at the start of a random accepted step, so hard regions are met more often (biased);
            ``"uniform"``: at a uniformly distributed time (unbiased), moved back where the step would leave
            the span.
        step : str
            ``"accepted"``: as long as the accepted step there; ``"initial"``: as long as a solve that starts
            there would try first, much shorter as a rule.
        generator : torch.Generator
            Source of the random time, on the CPU.

        Returns
        -------
        Tensor, scalar
            Mean over the samples; differentiable. Running statistics of batch normalisation are left alone.

        Raises
        ------
        scidyn.errors.OptionError
            If the method has no such estimate, an option is unknown, or the solve kept no grid of steps
            (another backend; events or jumps with another adjoint than ``"discrete"``).

        Examples
        --------
        >>> import torch
        >>> from scidyn.solvers import solve_ode
        >>> rate = torch.tensor(-1.5, requires_grad=True)
        >>> solution = solve_ode(lambda t, y: rate * y, torch.ones(1, 1), [0.0, 2.0], adjoint="backsolve")
        >>> penalty = solution.local_regulariser("stiffness", generator=torch.Generator().manual_seed(0))
        >>> round(penalty.item(), 2), round(torch.autograd.grad(penalty, rate)[0].item(), 2)
        (1.5, -1.0)

        References
        ----------
        A. Pal, A. Edelman, C. Rackauckas, Locally regularized neural differential equations, ICML 2023.
        """
        if self._local is None:
            raise OptionError(
                "this Solution kept no grid of steps: use backend='native' with an adjoint or dense=True; with events "
                "or jumps adjoint='discrete'."
            )
        return self._local(kind, when, step, generator)

    def to_xarray(
        self,
        names: Sequence[str] | None = None,
        units: Sequence[str] | None = None,
        time_units: str = "1",
    ) -> xr.Dataset:
        """Give the solution as a Dataset with one variable per state component.

        Parameters
        ----------
        names : sequence of str, optional
            Names of the components; default ``y0, y1, …``, or the keys of a structured state with a number if a
            leaf has more than one component.
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
        >>> dict(solution.to_xarray(["mass"], ["kg"], "s").sizes)
        {'trajectory': 1, 'time': 2}
        """
        import xarray as xr

        y, labels = self._columns()
        size = y.shape[-1]
        names = labels if names is None else list(names)
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

    def _columns(self) -> tuple[Tensor, list[str]]:
        """Components of the state as (batch, time, D) on the host, and their default names."""
        columns, labels = [], []
        for path, leaf in pytree.tree_flatten_with_path(self.y)[0]:
            values = leaf.detach().cpu()
            values = values.transpose(0, 1) if self.time_first else values
            values = values.unsqueeze(-1) if values.ndim == 2 else values
            if values.ndim != 3:
                raise ShapeError(f"to_xarray needs states of shape (D,); this one has {tuple(values.shape[2:])}.")
            stem = "_".join(str(getattr(k, "key", getattr(k, "idx", getattr(k, "name", "")))) for k in path) or "y"
            count = values.shape[-1]
            labels += [stem] if count == 1 and path else [f"{stem}{i}" for i in range(count)]
            columns.append(values)
        return torch.cat(columns, dim=-1), labels
