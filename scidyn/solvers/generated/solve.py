"""Solve with a generated program where the problem allows it."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from scidyn.solvers.arguments import Problem
from scidyn.solvers.attempt import LoopState
from scidyn.solvers.controller import Controller
from scidyn.solvers.diagnosis import diagnose
from scidyn.solvers.generated.library import Program
from scidyn.solvers.generated.source import program
from scidyn.solvers.generated.tracing import Unsupported, trace
from scidyn.solvers.loop import Trace
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.rosenbrock import Rodas

__all__ = ["generated_solver"]

Solver = Callable[..., Trace]
LARGEST_STATE = 512
LARGEST_CACHE = 256
# scalar operations of a rate: writing down more takes longer than a short solve; implicit steps are worth more
LARGEST_RATE = {False: 1000, True: 12000}

_programs: dict[tuple[object, ...], Program] = {}

_POINTERS = (
    *("y0", "own", "shared", "atol", "wanted", "k1", "out", "final_y", "final_k", "previous"),
    *("start", "end", "h", "final_t", "final_h", "last_size", "status", "accepted", "rejected"),
)
_COUNTS = ("batch", "count", "stride", "max_steps", "keep", "average")
_NUMBERS = (
    *("rtol", "tiny", "power0", "power1", "power2", "safety", "low", "high", "order"),
    *("first", "dt_min", "dt_max"),
)


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
    """Give a function that solves and keeps what it is told to, or None if the problem needs another way.

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

    def solve(*, keep_states: bool, keep_coef: bool) -> Trace:
        return _run(problem, written, library, keep_states=keep_states, keep_coef=keep_coef)

    return solve


def _suits(problem: Problem) -> bool:
    y0, method = problem.y0, problem.method
    if y0.device.type != "cpu" or y0.dtype not in (torch.float32, torch.float64) or problem.stepping == "fixed":
        return False
    if problem.targets is not None or not isinstance(problem.controller, Controller):
        return False
    if len(problem.tolerance.leaves) > 1:
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
    limit = LARGEST_RATE[method.implicit]
    found = trace(problem.field, batch, width, dtype, limit=limit)
    lanes = min(8, 1 << (batch - 1).bit_length())
    own = torch.stack(found.own) if found.own else torch.zeros(0, dtype=dtype, device="cpu")
    shared = torch.tensor(found.shared, dtype=dtype, device="cpu")
    key = (tuple(found.graph.nodes), tuple(found.outputs), len(found.own), dtype, method, lanes)
    if key not in _programs:
        trace(problem.field, batch, width, dtype, limit=limit, watch=True)
        if len(_programs) > LARGEST_CACHE:
            _programs.clear()
        try:
            source, hurried = program(found.graph, found.outputs, len(found.own), dtype, method, lanes)
        except (NotImplementedError, OverflowError) as reason:
            raise Unsupported(str(reason)) from None
        _programs[key] = Program(source, hurried=hurried)
    return _Written(shared, own.contiguous(), _programs[key])


def _run(problem: Problem, written: _Written, library: ctypes.CDLL, *, keep_states: bool, keep_coef: bool) -> Trace:
    """Run the program and bring its results into the form of the loop."""
    y0 = problem.y0.detach().contiguous()
    batch, width = y0.shape
    together = problem.tolerance.together
    rows = 1 if together else batch
    wanted = problem.times.detach()
    wanted = (wanted[:1] if wanted.stride(0) == 0 else wanted).contiguous()
    whole = torch.empty(4, batch, width, dtype=y0.dtype, device="cpu")
    reals = torch.empty(6, rows, dtype=torch.float64, device="cpu")
    counts = torch.empty(2, rows, dtype=torch.int32, device="cpu")
    tensors = {
        **{"y0": y0, "own": written.own, "shared": written.shared, "wanted": wanted},
        "atol": problem.tolerance.atol.detach().expand(width).contiguous(),
        "out": torch.empty(batch, wanted.shape[1], width, dtype=y0.dtype, device="cpu"),
        **dict(zip(("k1", "final_y", "final_k"), whole, strict=False)),
        **dict(zip(("start", "end", "h", "final_t", "final_h", "last_size"), reals, strict=True)),
        "previous": torch.empty(2, rows, dtype=y0.dtype, device="cpu"),
        "status": torch.empty(rows, dtype=torch.int8, device="cpu"),
        **{"accepted": counts[0], "rejected": counts[1]},
    }
    keep = 2 if keep_coef else 1 if keep_states else 0
    arguments = _arguments(problem, tensors, keep)
    records = (library.solve_together if together else library.solve_each)(ctypes.byref(arguments))
    carry = (tensors["final_k"],) if isinstance(problem.method, ExplicitRK) else ()
    previous, tried = tensors["previous"], counts.sum(dim=0, dtype=torch.int32)
    work = (tried.expand(batch), tried.expand(batch)) if problem.method.implicit else None
    final = LoopState(
        *(tensors["final_t"], tensors["final_h"], tensors["final_y"], carry, (previous[0], previous[1])),
        *(tensors["status"], tensors["accepted"], tensors["rejected"], work),
    )
    kept = _records(library, records, arguments, problem, final, keep)
    final = final._replace(status=diagnose(problem, final, tensors["last_size"]))
    evaluations = 2 + problem.method.evaluations * int(tried.max())
    return Trace(tensors["out"], *kept, final, tensors["last_size"], evaluations, 1)


def _arguments(problem: Problem, tensors: dict[str, Tensor], keep: int) -> _Arguments:
    control, tolerance = problem.controller, problem.tolerance
    if not isinstance(control, Controller):
        raise Unsupported("a controller of another kind")
    order, wanted = problem.method.error_order, tensors["wanted"]
    p, i, d = control.proportional, control.integral, control.derivative
    return _Arguments(
        *(tensors[name].data_ptr() for name in _POINTERS),
        *(problem.y0.shape[0], wanted.shape[1], wanted.shape[1] if len(wanted) > 1 else 0),
        *(problem.max_steps, keep, int(not tolerance.worst)),
        *(float(tolerance.rtol), torch.finfo(problem.y0.dtype).tiny),
        *(-(p + i + d) / order, (p + 2 * d) / order, -d / order, control.safety, control.shrink, control.grow, order),
        *(problem.dt0 or 0.0, problem.dt_min or 0.0, math.inf if problem.dt_max is None else problem.dt_max),
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
