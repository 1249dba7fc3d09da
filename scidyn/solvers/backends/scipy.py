"""SciPy's solvers, one sample after the other on the host."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from scidyn.errors import OptionError
from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import LoopState
from scidyn.solvers.field import Field
from scidyn.solvers.loop import Trace
from scidyn.solvers.status import Status

__all__ = ["SCIPY_METHODS", "gradient_method", "integrate_scipy"]

SCIPY_METHODS = ("Radau", "BDF", "LSODA", "DOP853", "RK45", "RK23")
NODES = np.array([0.2, 0.4, 0.6, 0.8, 1.0])


class _Path(NamedTuple):
    """One integrated system: reported states, nodes, states and polynomials of its steps, and its end."""

    reported: np.ndarray
    times: list[float]
    states: list[np.ndarray]
    coefs: list[np.ndarray]
    status: Status
    evaluations: int


def gradient_method(name: str) -> str:
    """Name the method of this package that differentiates SciPy's steps: of an order no lower, stable there."""
    if name not in SCIPY_METHODS:
        raise OptionError(f"backend 'scipy' has the methods {', '.join(SCIPY_METHODS)}; got {name!r}.")
    return {"DOP853": "dopri8", "RK45": "dopri5", "RK23": "bosh3"}.get(name, "kvaerno5")


@torch.no_grad()
def integrate_scipy(
    problem: Problem,
    name: str,
    *,
    keep_states: bool = False,
    keep_coef: bool = False,
    progress: Callable[[float], None] | None = None,
) -> Trace:
    """Solve each sample with ``scipy.integrate``, or all as one system if they share their steps.

    Parameters
    ----------
    problem : Problem
        A checked problem; its method serves the gradient only, its controller is not used.
    name : str
        ``"Radau"``, ``"BDF"``, ``"LSODA"``, ``"DOP853"``, ``"RK45"`` or ``"RK23"``.
    keep_states, keep_coef : bool
        Keep the states at the steps, and polynomials of degree 5 through SciPy's dense output.
    progress : callable, optional
        Called with the part of the samples that is done.

    Returns
    -------
    Trace
        The grid has one column per sample; shorter ones are padded with steps of size zero.

    Raises
    ------
    scidyn.errors.OptionError
        If the method cannot take the state's dtype.
    """
    if problem.y0.is_complex() and name == "LSODA":
        raise OptionError("SciPy's LSODA takes real states; y0 is complex: use 'BDF' or 'Radau'.")
    y0, batch = problem.y0.detach(), problem.y0.shape[0]
    single = _single_fields(problem)
    wanted = problem.times.detach().cpu().double().expand(batch, -1).numpy()
    paths = []
    groups = [slice(i, i + 1) for i in range(batch)] if single is not None else [slice(0, batch)]
    for i, group in enumerate(groups):
        rate = problem.field if single is None else single[i]
        paths.append(_solve(problem, name, rate, y0[group], wanted[i]))
        if progress is not None:
            progress((i + 1) / len(groups))
    return _trace(problem, paths, keep_states, keep_coef)


def _single_fields(problem: Problem) -> list[Field] | None:
    """Fields of the single samples, or None if the samples are one system."""
    field, y0, start = problem.field, problem.y0.detach(), problem.start.detach()
    if len(y0) == 1 or not field.per_sample:
        return None
    alone = Field(field.f, field.args, torch.Size((1, *field.shape[1:])), field.sign, True)
    together = field(start, y0)
    try:
        rows = [alone(start[i : i + 1], y0[i : i + 1]) for i in range(len(y0))]
    except (RuntimeError, ValueError, IndexError):
        return _by_rows(problem) if _independent(problem, together) else None
    if torch.allclose(torch.cat(rows), together, rtol=1e-5, atol=1e-8, equal_nan=True):
        return [alone] * len(y0)
    return _by_rows(problem) if _independent(problem, together) else None


def _independent(problem: Problem, together: Tensor) -> bool:
    """True if the rate of each sample stays the same when the others are moved."""
    y0 = problem.y0.detach()
    start = problem.start.detach()
    for i in range(len(y0)):
        moved = y0 * (1.0 + 1e-3) + 1e-3
        moved[i] = y0[i]
        rate = problem.field(start, moved)
        if not torch.allclose(rate[i], together[i], rtol=1e-6, atol=1e-9, equal_nan=True):
            return False
    return True


def _by_rows(problem: Problem) -> list[Any]:
    """Fields that evaluate the whole batch and keep one row, for parameters that belong to samples."""
    field, y0 = problem.field, problem.y0.detach()

    def row(i: int) -> Callable[[Tensor, Tensor], Tensor]:
        def rate(t: Tensor, y: Tensor) -> Tensor:
            full = y0.clone()
            full[i] = y[0]
            return field(t.expand(len(y0)), full)[i : i + 1]

        return rate

    return [row(i) for i in range(len(y0))]


def _solve(
    problem: Problem, name: str, rate: Callable[[Tensor, Tensor], Tensor], y0: Tensor, wanted: np.ndarray
) -> _Path:
    """Drive one of SciPy's steppers from the first wanted time to the last."""
    import scipy.integrate

    device, dtype = y0.device, y0.dtype
    calls = 0

    def f(t: float, y: np.ndarray) -> np.ndarray:
        nonlocal calls
        calls += 1
        state = torch.as_tensor(y, dtype=dtype).to(device).reshape(y0.shape)
        time = torch.full((len(y0) if problem.field.per_sample else 1,), t, dtype=problem.times.dtype, device=device)
        return rate(time, state).reshape(-1).cpu().numpy().astype(y.dtype)

    known = wanted[~np.isnan(wanted)]
    start, end = float(known[0]), float(known[-1])
    first = y0.reshape(-1).cpu().numpy()
    first = first.astype(np.complex128 if first.dtype.kind == "c" else np.float64)
    reported = np.full((len(wanted), first.size), np.nan, dtype=first.dtype)
    reported[wanted == start] = first
    if not end > start:
        return _Path(reported, [start], [], [], Status.SUCCESS, 0)
    rtol, atol = problem.tolerance.rtol.item(), problem.tolerance.atol.cpu().double().numpy()
    if atol.ndim:
        atol = np.tile(atol, first.size // atol.size)
    options: dict[str, Any] = {"rtol": rtol, "atol": atol, "first_step": problem.dt0}
    if problem.dt_max is not None:
        options["max_step"] = problem.dt_max
    if options["first_step"] is not None:
        options["first_step"] = min(options["first_step"], end - start)
    if not np.isfinite(f(start, first)).all():
        return _Path(reported, [start], [], [], Status.NON_FINITE_RHS, calls)
    solver = getattr(scipy.integrate, name)(f, start, first, end, **options)
    times = [start]
    states: list[np.ndarray] = []
    coefs: list[np.ndarray] = []
    status = Status.SUCCESS
    while solver.status == "running":
        if len(states) >= problem.max_steps:
            status = Status.MAX_STEPS
            break
        before = solver.y.copy()
        solver.step()
        if solver.status == "failed" or not np.isfinite(solver.y).all():
            finite = np.isfinite(solver.y).all()
            status = Status.STEP_UNDERFLOW if finite else Status.NON_FINITE_STATE
            break
        old = times[-1]
        if solver.t == old:
            # LSODA may return without having moved when its step is lost in the rounding of t
            status = Status.STEP_UNDERFLOW
            break
        polynomial = solver.dense_output()
        inside = (wanted > old) & (wanted <= solver.t)
        if inside.any():
            reported[inside] = polynomial(wanted[inside]).T
        states.append(before)
        coefs.append(_fit(polynomial, before, old, solver.t))
        times.append(solver.t)
    return _Path(reported, times, states, coefs, status, calls)


def _fit(polynomial: Callable[[np.ndarray], np.ndarray], y: np.ndarray, start: float, end: float) -> np.ndarray:
    """Coefficients of the polynomial of degree 5 through five values of SciPy's, shape (5, D)."""
    h = end - start
    values = (polynomial(start + NODES * h) - y[:, None]) / h
    return np.linalg.solve(NODES[:, None] ** np.arange(1, 6), values.T)


def _trace(problem: Problem, paths: list[_Path], keep_states: bool, keep_coef: bool) -> Trace:
    """Pad the paths to one grid with a column for each sample."""
    y0, batch = problem.y0.detach(), problem.y0.shape[0]
    shared = len(paths) == 1 and batch > 1
    longest, columns = max(len(path.states) for path in paths), len(paths)
    width = y0.shape[1]
    times = np.empty((longest + 1, columns))
    states = np.zeros((longest, columns, paths[0].reported.shape[1]), dtype=paths[0].reported.dtype)
    coefs = np.zeros((longest, 5, *states.shape[1:]), dtype=states.dtype)
    for j, path in enumerate(paths):
        count = len(path.states)
        times[: count + 1, j], times[count + 1 :, j] = path.times, path.times[-1]
        if count:
            states[:count, j], coefs[:count, :, j] = path.states, path.coefs
            states[count:, j] = path.states[-1]

    def tensor(value: np.ndarray) -> Tensor:
        return torch.as_tensor(value).to(device=y0.device, dtype=y0.dtype)

    grid = torch.as_tensor(times).to(device=y0.device, dtype=problem.times.dtype)
    size = grid.diff(dim=0)
    reported = tensor(np.stack([path.reported for path in paths]))
    if shared:
        reported = reported[0].reshape(-1, batch, width).transpose(0, 1)
    status = torch.tensor([path.status.value for path in paths], dtype=torch.int8, device=y0.device)
    accepted = torch.tensor([len(path.states) for path in paths], dtype=torch.int32, device=y0.device)
    final = LoopState(
        t=grid[-1],
        h=torch.zeros_like(grid[-1]),
        y=reported[:, -1],
        carry=(),
        previous=(torch.ones_like(grid[-1]), torch.ones_like(grid[-1])),
        status=status,
        accepted=accepted,
        rejected=torch.zeros_like(accepted),
    )
    evaluations = sum(path.evaluations for path in paths)
    kept = tensor(states).reshape(longest, batch, width)
    return Trace(
        y=reported,
        times=grid,
        size=size,
        states=kept if keep_states or keep_coef else kept[:0],
        coef=tensor(coefs).reshape(longest, 5, batch, width) if keep_coef else None,
        final=final,
        last_size=_last_sizes(size),
        nfe=evaluations,
        host_reads=evaluations,
    )


def _last_sizes(size: Tensor) -> Tensor:
    """Size of the last step of each column that is not padding."""
    if not len(size):
        return size.new_zeros(size.shape[1])
    last = ((size > 0).sum(dim=0) - 1).clamp_min(0)
    return size.gather(0, last.unsqueeze(0)).squeeze(0)
