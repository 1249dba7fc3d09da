"""Solve with a generated program where the problem allows it."""

from __future__ import annotations

import ctypes
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import Bounds, LoopState
from scidyn.solvers.diagnosis import diagnose
from scidyn.solvers.generated.library import Program
from scidyn.solvers.generated.source import program
from scidyn.solvers.generated.tracing import Unsupported, trace
from scidyn.solvers.loop import Trace, begin
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.rosenbrock import Rodas

__all__ = ["generated_solver"]

Solver = Callable[..., Trace]
LARGEST_STATE = 512
LARGEST_CACHE = 256

_programs: dict[tuple[object, ...], Program] = {}

_POINTERS = (
    *("y0", "k1", "own", "shared", "atol", "start", "h", "end", "slack", "dt_max", "dt_min", "wanted"),
    *("out", "final_y", "final_k", "previous", "status", "accepted", "rejected", "final_t", "final_h", "last_size"),
)
_COUNTS = ("batch", "count", "stride", "max_steps", "keep", "average")
_NUMBERS = ("rtol", "tiny", "power0", "power1", "power2", "safety", "low", "high")


class _Arguments(ctypes.Structure):
    _fields_ = (
        *((name, ctypes.c_void_p) for name in _POINTERS),
        *((name, ctypes.c_int64) for name in _COUNTS),
        *((name, ctypes.c_double) for name in _NUMBERS),
    )


class _Written(NamedTuple):
    """Constants of a field, and the program that solves it."""

    shared: Tensor
    own: Tensor
    program: Program


def generated_solver(problem: Problem, *, compile: bool) -> Solver | None:
    """Give a function with the signature of ``integrate``, or None if the problem needs another way.

    Without ``compile`` only programs that are compiled already are used.
    """
    if not _suits(problem):
        return None
    try:
        written = _write(problem)
        if not compile and not written.program.compiled:
            return None
        library = written.program.load()
    except Unsupported:
        return None

    def solve(k1: Tensor, *, keep_states: bool, keep_coef: bool) -> Trace:
        return _run(problem, written, library, k1, keep_states=keep_states, keep_coef=keep_coef)

    return solve


def _suits(problem: Problem) -> bool:
    y0, method = problem.y0, problem.method
    if y0.device.type != "cpu" or y0.dtype not in (torch.float32, torch.float64) or problem.stepping == "fixed":
        return False
    if type(method) is ExplicitRK:
        return method.adaptive and y0.shape[1] <= LARGEST_STATE
    if type(method) is Rodas:
        algebra = method.algebra
        return algebra.linear_solver != "krylov" and algebra.jacobian is None and y0.shape[1] <= LARGEST_STATE
    return False


def _write(problem: Problem) -> _Written:
    """Write the field down as it is now; the same expressions with other constants share a program."""
    batch, width = problem.y0.shape
    dtype, method = problem.y0.dtype, problem.method
    found = trace(problem.field, batch, width, dtype)
    lanes = min(8, 1 << (batch - 1).bit_length())
    own = torch.stack(found.own) if found.own else torch.zeros(0, dtype=dtype, device="cpu")
    shared = torch.tensor(found.shared, dtype=dtype, device="cpu")
    key = (tuple(found.graph.nodes), tuple(found.outputs), len(found.own), dtype, method, lanes)
    if key not in _programs:
        trace(problem.field, batch, width, dtype, watch=True)
        if len(_programs) > LARGEST_CACHE:
            _programs.clear()
        try:
            source, hurried = program(found.graph, found.outputs, len(found.own), dtype, method, lanes)
        except (NotImplementedError, OverflowError) as reason:
            raise Unsupported(str(reason)) from None
        _programs[key] = Program(source, hurried=hurried)
    return _Written(shared, own.contiguous(), _programs[key])


def _run(
    problem: Problem, written: _Written, library: ctypes.CDLL, k1: Tensor, *, keep_states: bool, keep_coef: bool
) -> Trace:
    """Run the program and bring its results into the form of the loop."""
    state, bounds = begin(problem, k1)
    batch, width = problem.y0.shape
    dtype, together = problem.y0.dtype, problem.tolerance.together
    output = torch.full((batch, problem.times.shape[1], width), torch.nan, dtype=dtype, device="cpu")
    first = problem.times.detach() == problem.start.detach().unsqueeze(1)
    first = first[:, : int(first.sum(dim=1).max())].unsqueeze(-1)
    output[:, : first.shape[1]] = torch.where(first, state.y.unsqueeze(1), torch.nan)
    wanted = (problem.times[:1] if problem.times.stride(0) == 0 else problem.times).detach().contiguous()
    tensors = {
        **{"y0": state.y, "k1": k1.detach().contiguous(), "own": written.own, "shared": written.shared},
        "atol": problem.tolerance.atol.detach().to(dtype).expand(width).contiguous(),
        **{"start": state.t, "h": state.h.clone(), "end": bounds.end, "slack": bounds.slack},
        **{"dt_max": bounds.dt_max, "dt_min": bounds.dt_min, "wanted": wanted, "out": output},
        **{"final_y": state.y.clone(), "final_k": k1.detach().clone(), "previous": torch.stack(state.previous)},
        **{"status": state.status.clone(), "accepted": state.accepted.clone(), "rejected": state.rejected.clone()},
        **{"final_t": state.t.clone(), "final_h": state.h.clone(), "last_size": torch.zeros_like(state.t)},
    }
    keep = 2 if keep_coef else 1 if keep_states else 0
    arguments = _arguments(problem, bounds, tensors, wanted, keep)
    run = library.solve_together if together else library.solve_each
    records = run(ctypes.byref(arguments))
    carry = (tensors["final_k"],) if state.carry else ()
    status, previous = tensors["status"], tensors["previous"]
    final = LoopState(
        *(tensors["final_t"], tensors["final_h"], tensors["final_y"], carry, (previous[0], previous[1]), status),
        *(tensors["accepted"], tensors["rejected"]),
    )
    kept = _records(library, records, arguments, problem, final, keep)
    final = final._replace(status=diagnose(problem, final, tensors["last_size"]))
    tried = int((final.accepted + final.rejected).max())
    evaluations = 2 + problem.method.evaluations * tried
    return Trace(output, *kept, final, tensors["last_size"], evaluations, 1)


def _arguments(
    problem: Problem, bounds: Bounds, tensors: dict[str, Tensor], wanted: Tensor, keep: int
) -> _Arguments:
    control, tolerance = problem.controller, problem.tolerance
    order = problem.method.error_order
    p, i, d = control.proportional, control.integral, control.derivative
    batch = problem.y0.shape[0]
    tiny = torch.finfo(problem.y0.dtype).tiny
    return _Arguments(
        *(tensors[name].data_ptr() for name in _POINTERS),
        *(batch, wanted.shape[1], wanted.shape[1] if len(wanted) > 1 else 0, problem.max_steps, keep),
        int(not tolerance.worst),
        *(float(tolerance.rtol), tiny, -(p + i + d) / order, (p + 2 * d) / order, -d / order),
        *(control.safety, control.shrink, control.grow),
    )


def _records(
    library: ctypes.CDLL, records: int | None, arguments: _Arguments, problem: Problem, final: LoopState, keep: int
) -> tuple[Tensor, Tensor, Tensor, Tensor | None]:
    """Times, sizes, states and polynomials of the accepted steps; without records one step over all."""
    batch, width = problem.y0.shape
    start = problem.start.detach()
    if records is None:
        none = final.t.new_zeros((0, *final.t.shape))
        return final.t.unsqueeze(0), none, final.y.new_zeros((0, batch, width)), None
    steps, rows = int(final.accepted.max()), len(final.t)
    times = torch.cat([start.unsqueeze(0), final.t.unsqueeze(0).expand(steps, -1)]).contiguous()
    size = final.t.new_zeros((steps, rows))
    states = final.y.unsqueeze(0).repeat(steps, 1, 1)
    powers = len(_polynomial_rows(problem))
    coef = final.y.new_zeros((steps, powers, batch, width)) if keep > 1 else None
    library.unpack(
        *(ctypes.c_void_p(records), ctypes.byref(arguments), ctypes.c_int64(rows)),
        *(ctypes.c_void_p(x.data_ptr() if x is not None else None) for x in (times, size, states, coef)),
    )
    return times, size, states, coef


def _polynomial_rows(problem: Problem) -> range:
    """One for each power of the continuous extension."""
    method = problem.method
    if isinstance(method, ExplicitRK):
        return range(len(method.tableau.dense[0]))
    if isinstance(method, Rodas):
        return range(len(method.tableau.dense) + 1)
    raise Unsupported(method.name)


