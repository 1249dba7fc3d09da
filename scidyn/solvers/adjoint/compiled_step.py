"""A shared step compiled together with its backward pass, once per vector field, method and shape."""

from __future__ import annotations

import time
import types
import warnings
import weakref
from collections.abc import Callable, Hashable
from typing import Any

import torch
from torch import Tensor

from scidyn.errors import SolverWarning
from scidyn.solvers.adjoint.measured import Measured
from scidyn.solvers.arguments import Problem
from scidyn.solvers.compiling import _identity
from scidyn.solvers.field import Field
from scidyn.solvers.methods.explicit_rk import ExplicitRK
from scidyn.solvers.methods.stepper import Rate, Step

__all__ = ["SharedStep", "watched_step"]

SharedStep = Callable[[Rate, float, float, Tensor, Tensor], Step]
Compiled = Callable[..., tuple[Tensor, Tensor, Tensor, Tensor]]

# seconds in plain steps after which compiling is expected to pay: a forward and a backward pass of a whole step
PAYS_AFTER = 20.0
LARGEST_CACHE = 64


class _Entry:
    """One kind of step: seconds spent so far, the compiled function, bytes of its graph, whether it failed."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self.function: Compiled | None = None
        self.bytes = 0
        self.broken = False


_cache: weakref.WeakKeyDictionary[Any, dict[Hashable, _Entry]] = weakref.WeakKeyDictionary()
_numbers = iter(range(10**9))


def watched_step(problem: Problem, method: ExplicitRK, compile: bool | str) -> tuple[SharedStep, int]:
    """Give the function that takes one step under autograd, and the bytes of its graph if they are known.

    ``compile=True`` compiles now, ``"auto"`` once plain steps of this kind have taken as long, False never.
    """
    if compile is False:
        return method.shared_step, 0
    owner, kind = _identity(problem.field.f)
    field = problem.field
    key = (kind, method, field.shape, field.sign, problem.y0.dtype, problem.y0.device)
    entries = _cache.setdefault(owner, {})
    if key not in entries and len(entries) >= LARGEST_CACHE:
        entries.clear()
    entry = entries.setdefault(key, _Entry())
    if entry.broken:
        return method.shared_step, 0
    if compile == "auto" and entry.seconds < PAYS_AFTER:
        return _timed(method, entry), 0
    if entry.function is None:
        entry.function = _compiled(problem, method)
        entry.bytes = _bytes(problem, method)
    return _guarded(entry, entry.function, problem, method), entry.bytes


def _compiled(problem: Problem, method: ExplicitRK) -> Compiled:
    """Compile the step; ``f`` and ``args`` are arguments, so the result keeps neither alive."""
    shape, sign, tolerance = problem.field.shape, problem.field.sign, problem.tolerance

    def one_step(
        f: Callable[..., Any], args: Any, t: Tensor, h: Tensor, y: Tensor, k1: Tensor
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        taken = method.step(Field(f, args, shape, sign, False), t, h, y, (k1,), tolerance)
        err = torch.zeros_like(y) if taken.err is None else taken.err
        return taken.y1, taken.carry[0], err.detach(), torch.stack(taken.coef)

    # the compiler counts variants per code object: every entry gets its own
    code = one_step.__code__.replace(co_name=f"watched_step_{next(_numbers)}")
    own = types.FunctionType(code, one_step.__globals__, code.co_name, None, one_step.__closure__)
    return torch.compile(own, fullgraph=True, dynamic=False)


def _bytes(problem: Problem, method: ExplicitRK) -> int:
    """Memory of the graph of one plain step, which that of a compiled one does not exceed much."""
    y = problem.y0.detach().requires_grad_()
    with torch.enable_grad(), (measured := Measured(y, y)):
        method.shared_step(problem.field, float(problem.start[0]), 1e-3, y, problem.field(problem.start.detach(), y))
    return max(1, measured.bytes)


def _guarded(entry: _Entry, function: Compiled, problem: Problem, method: ExplicitRK) -> SharedStep:
    """Call the compiled function; at its first failure warn and go on with plain code."""
    f, args = problem.field.f, problem.field.args

    def take(rate: Rate, t: float, h: float, y: Tensor, k1: Tensor) -> Step:
        if entry.broken:
            return method.shared_step(rate, t, h, y, k1)
        time_and_size = torch.tensor([[t], [h]], dtype=torch.float64, device=y.device)
        # one graph whether or not the caller needs the gradient of the first state
        y, k1 = (x if x.requires_grad or not torch.is_grad_enabled() else x.detach().requires_grad_() for x in (y, k1))
        try:
            y1, last, err, coef = function(f, args, time_and_size[0], time_and_size[1], y, k1)
        except Exception as reason:  # the compiler raises errors of many kinds; plain code decides what is real
            entry.broken = True
            taken = method.shared_step(rate, t, h, y, k1)
            sentence = str(reason).strip().splitlines()[0] if str(reason).strip() else type(reason).__name__
            warnings.warn(
                f"the step could not be compiled ({type(reason).__name__}: {sentence}); solving continues uncompiled. "
                "Write f with tensor operations only and install a C++ compiler, or pass compile=False.",
                SolverWarning,
                stacklevel=6,
            )
            return taken
        return Step(y1, (last,), err, coef.unbind())

    return take


def _timed(method: ExplicitRK, entry: _Entry) -> SharedStep:
    """Count the seconds spent in plain steps."""

    def take(rate: Rate, t: float, h: float, y: Tensor, k1: Tensor) -> Step:
        begin = time.perf_counter()
        taken = method.shared_step(rate, t, h, y, k1)
        entry.seconds += time.perf_counter() - begin
        return taken

    return take
